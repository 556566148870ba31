//! Our two programs at an interface: as links (tcx), or where the kernel has none, as filters (clsact).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use super::super::conntrack::Message;
use super::super::pins::Pins;
use super::super::sys;
use super::netlink::{DUMP, NEW, ask, attribute, number};

/// How the programs get to an interface.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Attach {
    /// By links, or by filters where the kernel knows no such links.
    #[default]
    Auto,
    /// By filters of a `clsact` queueing discipline. They outlive the process, so pins are needed.
    Clsact,
    /// By links: Linux 6.6.
    Tcx,
}

/// The two hooks of an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    FromPod,
    ToPod,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// What the pod sends comes in at the node's side.
    const fn tcx(self) -> u32 {
        match self {
            Self::FromPod => 46,
            Self::ToPod => 47,
        }
    }

    const fn clsact(self) -> u32 {
        match self {
            Self::FromPod => 0xffff_fff2,
            Self::ToPod => 0xffff_fff3,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from",
            Self::ToPod => "to",
        }
    }

    /// What our filter is called.
    const fn filter(self) -> &'static str {
        match self {
            Self::FromPod => "netpol_from",
            Self::ToPod => "netpol_to",
        }
    }

    pub(super) fn pin(self, interface: u32) -> String {
        format!("tcx-{interface}-{}", self.name())
    }

    /// Returns what a pin is of.
    pub(super) fn of_pin(name: &str) -> Option<(u32, Self)> {
        let (interface, way) = name.strip_prefix("tcx-")?.split_once('-')?;
        let way = Self::ALL.into_iter().find(|one| one.name() == way)?;
        Some((interface.parse().ok()?, way))
    }
}

/// One program at one interface.
#[derive(Debug)]
pub(super) enum Attachment {
    Link(OwnedFd),
    Filter,
}

impl Attachment {
    /// Attaches a program.
    pub(super) fn make(
        how: Attach,
        way: Way,
        interface: u32,
        program: BorrowedFd<'_>,
        pins: Option<&Pins>,
    ) -> io::Result<Self> {
        if how != Attach::Clsact {
            match sys::attach(program, way.tcx(), interface) {
                Ok(link) => {
                    if let Some(pins) = pins {
                        let name = way.pin(interface);
                        pins.take(&name)?;
                        pins.put(&name, link.as_fd())?;
                    }
                    return Ok(Self::Link(link));
                }
                // A kernel without such links.
                Err(error) if how == Attach::Auto && error.raw_os_error() == Some(libc::EINVAL) => {
                }
                Err(error) => return Err(error),
            }
        }
        if pins.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "filters outlive the process, and need a directory for pins",
            ));
        }
        filter(way, interface, program)?;
        Ok(Self::Filter)
    }

    /// Returns whether it is still there.
    pub(super) fn is_there(
        &self,
        way: Way,
        interface: u32,
        program: BorrowedFd<'_>,
    ) -> io::Result<bool> {
        match self {
            Self::Link(link) => Ok(sys::interface_of(link.as_fd())? == interface),
            Self::Filter => {
                let number = sys::number_of(program)?;
                Ok(filters(way, interface)?.iter().any(|filter| filter.program == Some(number)))
            }
        }
    }

    /// Takes it off, whoever else holds it.
    pub(super) fn detach(self, way: Way, interface: u32) -> io::Result<()> {
        match self {
            Self::Link(link) => match sys::unhook(link.as_fd()) {
                // The interface is gone.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(()),
                other => other,
            },
            Self::Filter => take_filters(way, interface),
        }
    }
}

const ADD_QDISC: u16 = 36;
const ADD_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;

/// The highest priority that is tried.
const PRIORITIES: u32 = 8;
/// `ETH_P_ALL`, in network order.
const ALL_PROTOCOLS: u32 = 0x0300;

/// `struct tcmsg`.
fn message(interface: u32, handle: u32, parent: u32, information: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [interface, handle, parent, information] {
        body.extend(number.to_ne_bytes());
    }
    body
}

/// One of our filters.
struct Filter {
    priority: u32,
    handle: u32,
    program: Option<u32>,
}

/// Adds our filter, and takes those away that earlier processes left: never is there none.
fn filter(way: Way, interface: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    const CLSACT: u32 = 0xffff_fff1;
    const KIND: u16 = 1;
    const OPTIONS: u16 = 2;
    const PROGRAM: u16 = 6;
    const NAME: u16 = 7;
    const FLAGS: u16 = 8;
    const DIRECT: u32 = 1;
    let mut qdisc = message(interface, 0xffff_0000, CLSACT, 0);
    Message(&mut qdisc).text(KIND, "clsact");
    match ask(ADD_QDISC, NEW, &qdisc) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => drop(other?),
    }
    let before = filters(way, interface)?;
    let number = sys::number_of(program)?;
    if !before.iter().any(|filter| filter.program == Some(number)) {
        let is_free = |priority: &u32| before.iter().all(|filter| filter.priority != *priority);
        let mut refused = io::ErrorKind::AddrInUse.into();
        let added = (1..=PRIORITIES).filter(is_free).any(|priority| {
            let mut body = message(interface, 1, way.clsact(), priority << 16 | ALL_PROTOCOLS);
            let mut filter = Message(&mut body);
            filter.text(KIND, "bpf");
            filter.nested(OPTIONS, |options| {
                options.attribute(PROGRAM, &program.as_raw_fd().to_ne_bytes());
                options.text(NAME, way.filter());
                options.attribute(FLAGS, &DIRECT.to_ne_bytes());
            });
            ask(ADD_FILTER, NEW, &body)
                .inspect_err(|error| {
                    refused = error
                        .raw_os_error()
                        .map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error);
                })
                .is_ok()
        });
        if !added {
            return Err(refused);
        }
    }
    let old = before.iter().filter(|filter| filter.program != Some(number));
    old.into_iter().try_for_each(|old| take_filter(way, interface, old))
}

/// Returns our filters at an interface.
fn filters(way: Way, interface: u32) -> io::Result<Vec<Filter>> {
    const OPTIONS: u16 = 2;
    const NAME: u16 = 7;
    const NUMBER: u16 = 11;
    let answers = match ask(GET_FILTER, DUMP, &message(interface, 0, way.clsact(), 0)) {
        // No clsact, or no interface any more.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV | libc::ENOENT)) =>
        {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let ours = answers.iter().filter_map(|answer| {
        let handle = number(answer.get(8..)?)?;
        let priority = number(answer.get(16..)?)? >> 16;
        let options = attribute(answer.get(20..)?, OPTIONS)?;
        let name = attribute(options, NAME)?;
        let is_ours = name.strip_suffix(&[0]) == Some(way.filter().as_bytes());
        let program = attribute(options, NUMBER).and_then(number);
        is_ours.then_some(Filter { priority, handle, program })
    });
    Ok(ours.collect())
}

fn take_filter(way: Way, interface: u32, filter: &Filter) -> io::Result<()> {
    let information = filter.priority << 16 | ALL_PROTOCOLS;
    let mut body = message(interface, filter.handle, way.clsact(), information);
    Message(&mut body).text(1, "bpf");
    match ask(DELETE_FILTER, 0, &body) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Takes all of our filters off an interface.
pub(super) fn take_filters(way: Way, interface: u32) -> io::Result<()> {
    filters(way, interface)?.iter().try_for_each(|filter| take_filter(way, interface, filter))
}
