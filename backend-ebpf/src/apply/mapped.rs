//! Maps of the kernel as memory of ours: the version, which is switched by one store, the ring of denied packets, and what
//! `table.rs` makes of such memory.
#![expect(unsafe_code, reason = "memory shared with the kernel has no safe interface")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Memory that a map is mapped to; unmapped when this goes.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is no thread's own; what is read and written below is atomic, or only read, and by one thread at a
// time, once the kernel is done with it.
unsafe impl Send for Memory {}

// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new(
        map: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        access: Access,
    ) -> io::Result<Self> {
        let access = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: no address is asked for, so nothing that is mapped already is touched.
        let start = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, length }),
            Some(_) | None => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the 64 bits at an offset that is a multiple of eight.
    pub(super) fn long(&self, offset: usize) -> io::Result<&AtomicU64> {
        let fits = offset.is_multiple_of(8) && offset < self.length && self.length - offset >= 8;
        let () = fits.then_some(()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: inside the mapping, which lives as long as `self` and is aligned to a page.
        Ok(unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) })
    }

    /// Returns the 32 bits at an offset that is a multiple of four.
    fn number(&self, offset: usize) -> io::Result<&AtomicU32> {
        let fits = offset.is_multiple_of(4) && offset + 4 <= self.length;
        let () = fits.then_some(()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: as above.
        Ok(unsafe { AtomicU32::from_ptr(self.start.as_ptr().add(offset).cast()) })
    }

    /// Copies bytes that the kernel writes no more.
    fn copy(&self, offset: usize, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.length);
        end.ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: inside the mapping; the caller has seen that the kernel is done with these bytes.
        let bytes = unsafe { core::slice::from_raw_parts(self.start.as_ptr().add(offset), length) };
        Ok(bytes.to_vec())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and nobody else unmaps it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// What we may do with the memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Read,
    Write,
}

fn page() -> io::Result<usize> {
    // SAFETY: takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).map_err(io::Error::other)
}

/// The first 64 bits of an array: the version of the ruleset.
#[derive(Debug)]
pub(super) struct Version(Memory);

impl Version {
    pub(super) fn of(map: BorrowedFd<'_>) -> io::Result<Self> {
        Memory::new(map, 0, page()?, Access::Write).map(Self)
    }

    pub(super) fn get(&self) -> io::Result<u64> {
        Ok(self.0.long(0)?.load(Ordering::Acquire))
    }

    /// Switches to a version, in one step. Rows written before are seen by whoever sees it: on x86 because loads are not
    /// taken out of order, elsewhere because every packet that was being judged is waited for.
    pub(super) fn set(&self, version: u64) -> io::Result<()> {
        if !cfg!(target_arch = "x86_64") {
            super::sys::grace();
        }
        self.0.long(0)?.store(version, Ordering::SeqCst);
        Ok(())
    }
}

/// A ring buffer (`BPF_MAP_TYPE_RINGBUF`).
#[derive(Debug)]
pub(super) struct Ring {
    consumer: Memory,
    /// The producer's page, then the data twice.
    producer: Memory,
    page: usize,
    size: usize,
}

/// The bits of a record's length that say it is not written yet, or is none.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// What stands before each record.
const HEADER: usize = 8;

impl Ring {
    /// Maps a ring of this size.
    pub(super) fn of(map: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = page()?;
        Ok(Self {
            consumer: Memory::new(map, 0, page, Access::Write)?,
            producer: Memory::new(map, page, page + 2 * size, Access::Read)?,
            page,
            size,
        })
    }

    /// Takes out what is there.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let position = self.consumer.long(0)?;
        let mut at = position.load(Ordering::Acquire);
        let end = self.producer.long(0)?.load(Ordering::Acquire);
        let size = u64::try_from(self.size).map_err(io::Error::other)?;
        while at < end {
            let offset = self.page + usize::try_from(at % size).map_err(io::Error::other)?;
            let length = self.producer.number(offset)?.load(Ordering::Acquire);
            if length & BUSY != 0 {
                break;
            }
            let bytes = usize::try_from(length & !DISCARDED).map_err(io::Error::other)?;
            if length & DISCARDED == 0 {
                each(&self.producer.copy(offset + HEADER, bytes)?);
            }
            let next = (HEADER + bytes).next_multiple_of(8);
            at += u64::try_from(next).map_err(io::Error::other)?;
            position.store(at, Ordering::Release);
        }
        Ok(())
    }
}
