//! Our programs at interfaces.
//!
//! The kernel waits for every packet under way while it takes a program off an interface, or puts one there, and nothing
//! else is done to any interface meanwhile. So a program stays for a while where no pod of the ruleset is any more: it lets
//! pass what the ruleset does not speak of, and policies come back that select the same pods.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

use netpol_core::backend::SyncError;

use super::super::attached::pin_refused;
use super::super::pins::Pins;
use super::super::sys;
use super::attachment::{Attach, Attachment, Way, take_filters};
use super::interfaces::all_interfaces;

/// How long a program stays at an interface without a pod.
const STAY: Duration = Duration::from_secs(60);

/// Our programs at the interfaces of one network namespace. Without pins, links are gone when this is.
#[derive(Debug)]
pub(super) struct Points {
    /// By interface, and by the order of [`Way::ALL`].
    made: BTreeMap<u32, [Option<Attachment>; 2]>,
    /// What runs there, by the same order.
    programs: [OwnedFd; 2],
    /// The interfaces at which no pod is, and since when.
    idle: BTreeMap<u32, Instant>,
}

impl Points {
    /// None yet.
    pub(super) const fn new(programs: [OwnedFd; 2]) -> Self {
        Self { made: BTreeMap::new(), programs, idle: BTreeMap::new() }
    }

    /// Takes over links that pins hold, and takes away the pins of those whose interface is gone.
    pub(super) fn adopt(&mut self, pins: &Pins) -> Result<(), SyncError> {
        let refused = |error| SyncError::refused("pins of interfaces", error);
        for name in pins.names().map_err(refused)? {
            let Some((interface, way)) = Way::of_pin(&name) else { continue };
            let link = pins.get(&name).map_err(|error| pin_refused(&name, error))?;
            let is_there = |link: &OwnedFd| {
                // An interface may have the number of one that is gone; then the link is at none.
                sys::interface_of(link.as_fd()).is_ok_and(|found| found == interface)
            };
            match link.filter(is_there) {
                None => pins.take(&name).map_err(|error| pin_refused(&name, error))?,
                Some(link) => {
                    let [from, to] = self.made.entry(interface).or_default();
                    let place = match way {
                        Way::FromPod => from,
                        Way::ToPod => to,
                    };
                    *place = Some(Attachment::Link(link));
                }
            }
        }
        Ok(())
    }

    /// As [`attach`](Self::attach), where these interfaces had no pod before: of others it was seen that the programs are there.
    pub(super) fn attach_more(
        &mut self,
        how: Attach,
        wanted: &BTreeSet<u32>,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        let is_new = |interface: &u32| {
            !self.made.contains_key(interface) || self.idle.contains_key(interface)
        };
        let new: Vec<u32> = wanted.iter().copied().filter(is_new).collect();
        self.make(how, &new, pins)?;
        self.note_idle(wanted);
        Ok(())
    }

    /// Attaches the programs to these interfaces where they are not, and notes at which others no pod is.
    pub(super) fn attach(
        &mut self,
        how: Attach,
        wanted: &BTreeSet<u32>,
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        let all: Vec<u32> = wanted.iter().copied().collect();
        self.make(how, &all, pins)?;
        self.note_idle(wanted);
        Ok(())
    }

    fn make(
        &mut self,
        how: Attach,
        interfaces: &[u32],
        pins: Option<&Pins>,
    ) -> Result<(), SyncError> {
        for interface in interfaces {
            let place = self.made.entry(*interface).or_default();
            for ((way, attachment), program) in Way::ALL.into_iter().zip(place).zip(&self.programs)
            {
                // The kernel takes a program once for an interface.
                if is_there(attachment.as_ref(), way, *interface, program) {
                    continue;
                }
                let made = Attachment::make(how, way, *interface, program.as_fd(), pins);
                *attachment = Some(made.map_err(|error| {
                    let what = format!("interface {interface}, packets {} a pod", way.name());
                    SyncError::refused(what, error)
                })?);
            }
        }
        Ok(())
    }

    fn note_idle(&mut self, wanted: &BTreeSet<u32>) {
        let now = Instant::now();
        self.idle.retain(|interface, _| !wanted.contains(interface));
        for interface in self.made.keys().filter(|interface| !wanted.contains(interface)) {
            self.idle.entry(*interface).or_insert(now);
        }
    }

    /// Returns whether both programs are at an interface.
    pub(super) fn is_attached(&self, interface: u32) -> bool {
        self.made.get(&interface).is_some_and(|attachments| {
            Way::ALL.into_iter().zip(attachments).zip(&self.programs).all(
                |((way, attachment), program)| {
                    is_there(attachment.as_ref(), way, interface, program)
                },
            )
        })
    }

    /// Returns whether both are at every interface that a pod has.
    pub(super) fn are_attached(&self) -> bool {
        let mut guarded = self.made.keys().filter(|interface| !self.idle.contains_key(interface));
        guarded.all(|interface| self.is_attached(*interface))
    }

    /// Forgets interfaces that are gone: the kernel has taken the programs off.
    pub(super) fn collect(&mut self, pins: Option<&Pins>) -> Result<(), SyncError> {
        let gone: Vec<u32> =
            self.idle.keys().copied().filter(|interface| !self.is_attached(*interface)).collect();
        self.take(&gone, pins)
    }

    /// Takes the programs off interfaces that no pod has had for a while.
    pub(super) fn let_go(&mut self, pins: Option<&Pins>) -> Result<(), SyncError> {
        self.collect(pins)?;
        let old = self.idle.iter().filter(|(_, since)| since.elapsed() > STAY);
        let old: Vec<u32> = old.map(|(interface, _)| *interface).collect();
        self.take(&old, pins)
    }

    fn take(&mut self, interfaces: &[u32], pins: Option<&Pins>) -> Result<(), SyncError> {
        for interface in interfaces {
            let refused = |error| SyncError::refused(format!("interface {interface}"), error);
            self.idle.remove(interface);
            for (way, attachment) in
                Way::ALL.into_iter().zip(self.made.remove(interface).into_iter().flatten())
            {
                attachment
                    .map_or(Ok(()), |attachment| attachment.detach(way, *interface))
                    .map_err(refused)?;
                if let Some(pins) = pins {
                    pins.take(&way.pin(*interface)).map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// Takes away what a process before this one left as filters, where no pod is any more.
    pub(super) fn remove_others(&self) -> Result<(), SyncError> {
        let is_filter = |one: &Attachment| matches!(one, Attachment::Filter);
        if self.made.values().flatten().flatten().any(is_filter) {
            remove_filters(|interface| self.made.contains_key(&interface))
                .map_err(|error| SyncError::refused("filters of interfaces", error))?;
        }
        Ok(())
    }

    /// Takes the programs off, whoever else holds them.
    pub(super) fn detach(self) -> io::Result<()> {
        for (interface, attachments) in self.made {
            for (way, attachment) in Way::ALL.into_iter().zip(attachments) {
                attachment.map_or(Ok(()), |attachment| attachment.detach(way, interface))?;
            }
        }
        Ok(())
    }
}

fn is_there(attachment: Option<&Attachment>, way: Way, interface: u32, program: &OwnedFd) -> bool {
    attachment.is_some_and(|attachment| {
        attachment.is_there(way, interface, program.as_fd()).unwrap_or(false)
    })
}

/// Takes off the links that pins hold and all of our filters.
pub(super) fn remove_all(pins: &Pins) -> io::Result<()> {
    for name in pins.names()?.into_iter().filter(|name| Way::of_pin(name).is_some()) {
        if let Some(link) = pins.get(&name)?
            && sys::interface_of(link.as_fd())? != 0
        {
            sys::unhook(link.as_fd())?;
        }
        pins.take(&name)?;
    }
    remove_filters(|_| false)
}

fn remove_filters(is_kept: impl Fn(u32) -> bool) -> io::Result<()> {
    for interface in all_interfaces()?.into_iter().filter(|interface| !is_kept(*interface)) {
        for way in Way::ALL {
            take_filters(way, interface)?;
        }
    }
    Ok(())
}
