//! The system calls that the standard library has no form of. With `mapped.rs` the only unsafe code of this crate.
#![expect(unsafe_code, reason = "bpf(2) and netlink sockets have no safe interface")]

use core::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::OnceLock;

/// The commands of bpf(2) that are used, by their number in the kernel's user API.
#[derive(Clone, Copy, Debug)]
#[repr(i32)]
pub(super) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    Pin = 6,
    Get = 7,
    TestRun = 10,
    Info = 15,
    MapLookupBatch = 24,
    MapUpdateBatch = 26,
    MapDeleteBatch = 27,
    LinkCreate = 28,
    LinkDetach = 34,
}

/// How often a call is made that signals cut short.
const ATTEMPTS: u32 = 64;

impl Command {
    /// Returns whether a signal, of which nothing else is known, kept the kernel from carrying the command out.
    ///
    /// The verifier gives up with `EAGAIN` and a run with `EINTR` when one is pending; nothing is made by then.
    fn is_cut_short_by(self, error: &io::Error) -> bool {
        let cut_short = match self {
            Self::ProgramLoad => libc::EAGAIN,
            Self::TestRun => libc::EINTR,
            Self::MapCreate
            | Self::MapLookup
            | Self::MapUpdate
            | Self::MapDelete
            | Self::MapNextKey
            | Self::MapDeleteBatch
            | Self::Info
            | Self::Pin
            | Self::Get
            | Self::MapLookupBatch
            | Self::MapUpdateBatch
            | Self::LinkCreate
            | Self::LinkDetach => return false,
        };
        error.raw_os_error() == Some(cut_short)
    }
}

/// An argument of bpf(2): numbers at places, and the memory that the kernel reads or writes, borrowed until the call.
///
/// INVARIANT (borrowed): every pointer in `raw` is to memory that `'a` borrows, and the number that says its size is the
/// caller's duty in this file.
struct Argument<'a> {
    raw: [u64; 16],
    borrows: core::marker::PhantomData<&'a mut [u8]>,
}

impl<'a> Argument<'a> {
    const fn new() -> Self {
        Self { raw: [0; 16], borrows: core::marker::PhantomData }
    }

    /// Puts 32 bits at a byte offset that is a multiple of four.
    fn number(mut self, offset: usize, value: u32) -> Self {
        if let Some(word) = self.raw.get_mut(offset / 8) {
            // The halves of a word lie in memory in the order of the machine.
            let first = offset.is_multiple_of(8) == cfg!(target_endian = "little");
            *word |= u64::from(value) << if first { 0 } else { 32 };
        }
        self
    }

    fn descriptor(self, offset: usize, descriptor: BorrowedFd<'_>) -> Self {
        self.number(offset, descriptor.as_raw_fd().cast_unsigned())
    }

    fn long(mut self, offset: usize, value: u64) -> Self {
        if let Some(word) = self.raw.get_mut(offset / 8) {
            *word = value;
        }
        self
    }

    fn read(self, offset: usize, memory: &'a [u8]) -> Self {
        self.long(offset, memory.as_ptr().expose_provenance() as u64)
    }

    fn write(self, offset: usize, memory: &'a mut [u8]) -> Self {
        self.long(offset, memory.as_mut_ptr().expose_provenance() as u64)
    }

    fn text(self, offset: usize, text: &'a CStr) -> Self {
        self.read(offset, text.to_bytes_with_nul())
    }

    /// Puts a name of at most 15 bytes.
    fn name(mut self, offset: usize, name: &str) -> Self {
        for (index, chunk) in name.as_bytes().chunks(4).take(4).enumerate() {
            let mut bytes = [0; 4];
            for (to, from) in bytes.iter_mut().zip(chunk) {
                *to = *from;
            }
            self = self.number(offset + 4 * index, u32::from_ne_bytes(bytes));
        }
        self
    }

    fn number_at(&self, offset: usize) -> u32 {
        let bytes = self.raw.get(offset / 8).copied().unwrap_or(0).to_ne_bytes();
        let half = bytes.chunks_exact(4).nth(offset % 8 / 4).and_then(|half| half.try_into().ok());
        u32::from_ne_bytes(half.unwrap_or_default())
    }

    /// Calls, again where a signal to the process ended the verifier or a run before it was done.
    fn call(&mut self, command: Command) -> io::Result<i32> {
        let before = self.raw;
        for _ in 1..ATTEMPTS {
            match self.call_once(command) {
                Err(error) if command.is_cut_short_by(&error) => self.raw = before,
                outcome => return outcome,
            }
        }
        self.call_once(command)
    }

    fn call_once(&mut self, command: Command) -> io::Result<i32> {
        // SAFETY: `raw` is a valid place of that size. INVARIANT (borrowed) keeps what it points to alive and, where the
        // kernel writes, exclusively ours; the wrappers below give the sizes of the slices they put in.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command as libc::c_int,
                self.raw.as_mut_ptr(),
                size_of_val(&self.raw),
            )
        };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        i32::try_from(outcome).map_err(io::Error::other)
    }

    fn open(&mut self, command: Command) -> io::Result<OwnedFd> {
        let descriptor: RawFd = self.call(command)?;
        // SAFETY: the callers use commands that return a descriptor just opened, which has no other owner.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

fn length(memory: &[u8]) -> io::Result<u32> {
    u32::try_from(memory.len()).map_err(io::Error::other)
}

fn check(right: bool) -> io::Result<()> {
    if right { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The shape of a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) flags: u32,
}

impl Shape {
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`: user space sees a value for each processor.
    const PER_PROCESSOR: u32 = 6;

    /// Returns the size of what user space reads for one key.
    fn read_size(&self) -> io::Result<u32> {
        if self.kind != Self::PER_PROCESSOR {
            return Ok(self.value);
        }
        Ok(self.value.next_multiple_of(8).saturating_mul(processors()?))
    }
}

/// Returns how many processors there may ever be.
fn processors() -> io::Result<u32> {
    static COUNT: OnceLock<u32> = OnceLock::new();
    if let Some(count) = COUNT.get() {
        return Ok(*count);
    }
    // `0-3`, or `0,2-7`.
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u32>().ok());
    let count = last.map(|last| last + 1).ok_or(io::ErrorKind::InvalidData)?;
    Ok(*COUNT.get_or_init(|| count))
}

/// A map in the kernel.
#[derive(Debug)]
pub(super) struct Map {
    descriptor: OwnedFd,
    shape: Shape,
}

impl Map {
    pub(super) fn create(name: &str, shape: Shape, entries: u32) -> io::Result<Self> {
        let descriptor = Argument::new()
            .number(0, shape.kind)
            .number(4, shape.key)
            .number(8, shape.value)
            .number(12, entries)
            .number(16, shape.flags)
            .name(28, name)
            .open(Command::MapCreate)?;
        Ok(Self { descriptor, shape })
    }

    /// Takes a map from a pin. Where it has another shape than this, the kernel refuses to change it.
    pub(super) const fn from_descriptor(descriptor: OwnedFd, shape: Shape) -> Self {
        Self { descriptor, shape }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.descriptor.as_fd()
    }

    fn sizes(&self, key: &[u8], value: &[u8], rows: u32) -> io::Result<()> {
        check(Some(length(key)?) == self.shape.key.checked_mul(rows))?;
        check(Some(length(value)?) == self.shape.value.checked_mul(rows))
    }

    /// Reads the value of one key; a program array's is the number of the program.
    pub(super) fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        check(length(key)? == self.shape.key)?;
        let mut value = vec![0; usize::try_from(self.shape.read_size()?).unwrap_or(0)];
        let mut argument = Argument::new();
        argument = argument.descriptor(0, self.descriptor()).read(8, key).write(16, &mut value);
        match argument.call(Command::MapLookup) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|_| Some(value)),
        }
    }

    /// Takes rows away until one is not there. Returns how many were.
    pub(super) fn delete_batch(&self, keys: &[u8]) -> io::Result<usize> {
        let rows = length(keys)? / self.shape.key.max(1);
        check(Some(length(keys)?) == self.shape.key.checked_mul(rows))?;
        let mut argument =
            Argument::new().read(16, keys).number(32, rows).descriptor(36, self.descriptor());
        match argument.call(Command::MapDeleteBatch) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) if is_not_offered(&error) => return self.delete_each(keys),
            other => drop(other?),
        }
        usize::try_from(argument.number_at(32)).map_err(io::Error::other)
    }

    fn delete_each(&self, keys: &[u8]) -> io::Result<usize> {
        let mut deleted = 0;
        for key in keys.chunks_exact(usize::try_from(self.shape.key).unwrap_or(1)) {
            let mut argument = Argument::new().descriptor(0, self.descriptor()).read(8, key);
            match argument.call(Command::MapDelete) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                other => drop(other?),
            }
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Adds or replaces one row.
    pub(super) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.sizes(key, value, 1)?;
        let mut argument = Argument::new();
        argument = argument.descriptor(0, self.descriptor()).read(8, key).read(16, value);
        argument.call(Command::MapUpdate).map(drop)
    }

    /// Sets the value of a key to zeros, on every processor.
    pub(super) fn clear(&self, key: &[u8]) -> io::Result<()> {
        check(length(key)? == self.shape.key)?;
        let value = vec![0; usize::try_from(self.shape.read_size()?).unwrap_or(0)];
        let mut argument = Argument::new();
        argument = argument.descriptor(0, self.descriptor()).read(8, key).read(16, &value);
        argument.call(Command::MapUpdate).map(drop)
    }

    /// Adds or replaces rows, their keys and their values one after another.
    pub(super) fn update_batch(&self, keys: &[u8], values: &[u8], rows: u32) -> io::Result<()> {
        self.sizes(keys, values, rows)?;
        let mut argument = Argument::new()
            .read(16, keys)
            .read(24, values)
            .number(32, rows)
            .descriptor(36, self.descriptor());
        match argument.call(Command::MapUpdateBatch) {
            Err(error) if is_not_offered(&error) => {
                let sized = |size: u32| usize::try_from(size).unwrap_or(1).max(1);
                let values = values.chunks_exact(sized(self.shape.value));
                let mut rows = keys.chunks_exact(sized(self.shape.key)).zip(values);
                rows.try_for_each(|(key, value)| self.update(key, value))
            }
            other => other.map(drop),
        }
    }

    /// Reads at most `rows` rows; returns their keys and their values, one after another.
    pub(super) fn lookup_batch(&self, rows: u32) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let read_size = self.shape.read_size()?;
        let room = |size: u32| {
            usize::try_from(u64::from(size) * u64::from(rows)).map_err(io::Error::other)
        };
        let (mut keys, mut values) = (vec![0; room(self.shape.key)?], vec![0; room(read_size)?]);
        // Where to go on: a number for hash maps, a key for others; at most as long as this.
        let mut place = [0; 64];
        let mut argument = Argument::new()
            .write(8, &mut place)
            .write(16, &mut keys)
            .write(24, &mut values)
            .number(32, rows)
            .descriptor(36, self.descriptor());
        match argument.call(Command::MapLookupBatch) {
            // The end of the map.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) if is_not_offered(&error) => return self.lookup_each(),
            other => drop(other?),
        }
        let got = usize::try_from(argument.number_at(32)).unwrap_or(0);
        let sized = |size: u32| usize::try_from(size).unwrap_or(0) * got;
        keys.truncate(sized(self.shape.key));
        values.truncate(sized(read_size));
        Ok((keys, values))
    }
}

impl Map {
    /// Reads every row, one by one.
    fn lookup_each(&self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut key: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0; usize::try_from(self.shape.key).unwrap_or(0)];
            let mut argument = Argument::new().descriptor(0, self.descriptor());
            if let Some(key) = &key {
                argument = argument.read(8, key);
            }
            match argument.write(16, &mut next).call(Command::MapNextKey) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
                other => drop(other?),
            }
            if let Some(value) = self.lookup(&next)? {
                keys.extend(&next);
                values.extend(value);
            }
            key = Some(next);
        }
        Ok((keys, values))
    }
}

/// Returns whether the kernel does not know a command, for this kind of map or at all. Many rows are then one by one:
/// hashes have batches since Linux 5.6, tries since 5.11.
fn is_not_offered(error: &io::Error) -> bool {
    /// What the kernel says inside, and sometimes lets out.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP | ENOTSUPP))
}

/// A program's kind: `enum bpf_prog_type` and `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) program: u32,
    pub(super) attach: u32,
}

/// Loads a program. On refusal, `log` gets what the verifier says if it has room.
pub(super) fn load(
    name: &str,
    kind: Kind,
    instructions: &[u8],
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    check(instructions.len().is_multiple_of(8))?;
    let mut argument = Argument::new()
        .number(0, kind.program)
        .number(4, length(instructions)? / 8)
        .read(8, instructions)
        .text(16, c"Dual MIT/GPL")
        .name(48, name)
        .number(68, kind.attach);
    if !log.is_empty() {
        argument = argument.number(24, 1).number(28, length(log)?).write(32, log);
    }
    argument.open(Command::ProgramLoad)
}

/// What a program said of a packet that nobody sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) returned: u32,
    /// Nanoseconds for one run, on average.
    pub(super) duration: u32,
}

/// Runs a program on a packet.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
    repeat: u32,
) -> io::Result<Outcome> {
    let mut argument = Argument::new()
        .descriptor(0, program)
        .number(8, length(packet)?)
        .read(16, packet)
        .number(32, repeat)
        .number(40, length(context)?)
        .read(48, context);
    argument.call(Command::TestRun)?;
    Ok(Outcome { returned: argument.number_at(4), duration: argument.number_at(36) })
}

/// Returns the number of a program, which the kernel gives no other one.
pub(super) fn number_of(program: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_prog_info` begins with the kind and the number.
    let mut info = [0; 8];
    let mut argument =
        Argument::new().descriptor(0, program).number(4, length(&info)?).write(8, &mut info);
    argument.call(Command::Info)?;
    let [_, _, _, _, number @ ..] = info;
    Ok(u32::from_ne_bytes(number))
}

/// Reads where a symbolic link in a directory leads; returns how many bytes it is.
pub(super) fn read_link(at: BorrowedFd<'_>, name: &CStr, text: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the name ends in zero, and `text` is valid for writes of its length.
    let length = unsafe {
        libc::readlinkat(at.as_raw_fd(), name.as_ptr(), text.as_mut_ptr().cast(), text.len())
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Waits until every packet that was being judged is through: an RCU grace period.
pub(super) fn grace() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes no pointers.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if outcome < 0 {
        // Not on kernels with `nohz_full` processors. A packet is judged in a millionth of this.
        std::thread::sleep(core::time::Duration::from_millis(100));
    }
}

/// Where a netfilter program is hooked.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetfilterHook {
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(super) family: u32,
    pub(super) hook: u32,
    pub(super) priority: i32,
}

/// Hooks a program into the network namespace of the calling thread, until the descriptor is closed.
pub(super) fn hook(program: BorrowedFd<'_>, kind: Kind, at: NetfilterHook) -> io::Result<OwnedFd> {
    Argument::new()
        .descriptor(0, program)
        .number(8, kind.attach)
        .number(16, at.family)
        .number(20, at.hook)
        .number(24, at.priority.cast_unsigned())
        .open(Command::LinkCreate)
}

/// Attaches a program to an interface of the network namespace of the calling thread, before all others there, until
/// the descriptor is closed.
pub(super) fn attach(program: BorrowedFd<'_>, attach: u32, interface: u32) -> io::Result<OwnedFd> {
    /// `BPF_F_BEFORE`, and nothing that it is relative to.
    const FIRST: u32 = 1 << 3;
    Argument::new()
        .descriptor(0, program)
        .number(4, interface)
        .number(8, attach)
        .number(12, FIRST)
        .open(Command::LinkCreate)
}

/// Returns the interface that a link is at; 0 if the link is off, or the interface gone.
pub(super) fn interface_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    // `struct bpf_link_info`: kind, number, program, and from 16 on what is of this kind.
    let mut info = [0; 24];
    let mut argument =
        Argument::new().descriptor(0, link).number(4, length(&info)?).write(8, &mut info);
    argument.call(Command::Info)?;
    let interface = info.get(16..).and_then(|rest| rest.first_chunk::<4>());
    Ok(interface.map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
}

/// Takes a program off its hook, whoever else holds the link.
pub(super) fn unhook(link: BorrowedFd<'_>) -> io::Result<()> {
    Argument::new().descriptor(0, link).call(Command::LinkDetach).map(drop)
}

/// Gives an object a name in a BPF file system, which keeps it alive.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    Argument::new().text(0, path).descriptor(8, object).call(Command::Pin).map(drop)
}

/// Opens an object by its name in a BPF file system.
pub(super) fn get(path: &CStr) -> io::Result<OwnedFd> {
    Argument::new().text(0, path).open(Command::Get)
}

/// A netlink socket of the network namespace of the calling thread.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens a socket to nfnetlink. Reads give up after five seconds.
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER)
    }

    /// Opens a socket to rtnetlink, likewise.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(libc::NETLINK_ROUTE)
    }

    fn open(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers.
        let descriptor = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(descriptor) });
        let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
        socket.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &patience)?;
        Ok(socket)
    }

    /// Has the kernel refuse conditions that it would not heed: Linux 4.20.
    pub(super) fn be_strict(&self) -> io::Result<()> {
        const STRICT: libc::c_int = 12;
        self.set(libc::SOL_NETLINK, STRICT, &1_i32)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
        let value = core::ptr::from_ref(value).cast();
        // SAFETY: `value` is a valid value of the size given.
        let outcome = unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, value, size) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    pub(super) fn send(&self, messages: &[u8]) -> io::Result<()> {
        // SAFETY: `messages` is valid for reads of its length.
        let sent =
            unsafe { libc::send(self.0.as_raw_fd(), messages.as_ptr().cast(), messages.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns the next datagram, cut to the length of `buffer`.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        // SAFETY: `buffer` is valid for writes of its length.
        let got =
            unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        Ok(buffer.get(..got).unwrap_or_default())
    }
}
