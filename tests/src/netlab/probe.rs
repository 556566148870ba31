//! What is sent, and what was seen of it.

use core::fmt;
use core::net::IpAddr;
use core::num::NonZeroU16;
use core::time::Duration;
use std::io;

use super::packet::is_bare_protocol;
use super::{End, HostId, Lab, LabError, engine};

/// One packet, or one attempt of a connection, to send.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_structs, reason = "tests write probes as literals")]
pub struct Probe {
    /// The sender; it sends from its first address of the destination's family.
    pub from: End,
    /// The destination, owned by some host of the lab.
    pub to: IpAddr,
    /// What to send.
    pub traffic: Traffic,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {} {}", self.from, self.to, self.traffic)
    }
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a new kind of traffic must reach every reader of observations"
)]
pub enum Traffic {
    /// An ICMP or ICMPv6 echo request.
    Icmp,
    /// A packet of an IP protocol without ports, such as GRE (47).
    Protocol(u8),
    /// An SCTP INIT, with a right checksum, from a raw socket.
    Sctp(NonZeroU16),
    /// A TCP connection.
    Tcp(NonZeroU16),
    /// A UDP datagram, which the destination sends back.
    Udp(NonZeroU16),
}

impl Traffic {
    /// Returns whether the destination answers, so that a probe is passed only with the answer.
    #[must_use]
    pub const fn has_answer(self) -> bool {
        match self {
            Self::Icmp | Self::Tcp(_) | Self::Udp(_) => true,
            Self::Protocol(_) | Self::Sctp(_) => false,
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp => f.write_str("ICMP"),
            Self::Protocol(number) => write!(f, "protocol {number}"),
            Self::Sctp(port) => write!(f, "{port}/SCTP"),
            Self::Tcp(port) => write!(f, "{port}/TCP"),
            Self::Udp(port) => write!(f, "{port}/UDP"),
        }
    }
}

/// What was seen of a probe.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever judges an observation must have thought of each"
)]
pub enum Observation {
    /// It reached its destination, but the answer did not reach its sender: replies are broken (NP-160).
    AnswerLost,
    /// It reached its destination, and so did the answer to it, where there is one.
    Passed,
    /// Something on the way, or the sender's own host, refused it.
    Refused(Refusal),
    /// Nothing was seen of it.
    TimedOut,
}

impl Observation {
    /// Returns whether the traffic works.
    #[must_use]
    pub const fn has_passed(self) -> bool {
        match self {
            Self::Passed => true,
            Self::AnswerLost | Self::Refused(_) | Self::TimedOut => false,
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswerLost => f.write_str("arrived, but the answer was lost"),
            Self::Passed => f.write_str("passed"),
            Self::Refused(refusal) => write!(f, "refused ({refusal})"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// How a probe was refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever judges an observation must have thought of each"
)]
pub enum Refusal {
    /// An ICMP error or a local rule forbids it.
    Prohibited,
    /// A TCP reset, or the ICMP error for a closed port.
    Refused,
    /// An ICMP error or the routing table finds no way.
    Unreachable,
}

impl Refusal {
    /// Reads an error of a socket; `None` for errors that are no word about the packet.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::EPERM | libc::EACCES => Some(Self::Prohibited),
            libc::ECONNREFUSED | libc::ECONNRESET | libc::EPIPE => Some(Self::Refused),
            libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENOPROTOOPT | libc::EPROTO => {
                Some(Self::Unreachable)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prohibited => "prohibited",
            Self::Refused => "port closed",
            Self::Unreachable => "unreachable",
        })
    }
}

/// How long silence has to last before it counts as a denial. Probes that are answered never wait for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the two knobs there are")]
pub struct Patience {
    /// The silence after the last packet was sent. Datagrams and raw packets are repeated twice within it.
    pub timeout: Duration,
    /// How many times probes that were not passed are sent anew, to be sure of a denial on a loaded machine.
    pub repeats: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(600), repeats: 0 }
    }
}

/// A probe with its ends found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shot {
    /// The host that sends.
    pub(super) from: HostId,
    /// The address it sends from.
    pub(super) source: IpAddr,
    /// The host that owns the destination.
    pub(super) at: HostId,
    /// The destination.
    pub(super) to: IpAddr,
    /// What is sent.
    pub(super) traffic: Traffic,
}

impl Lab {
    /// Sends all probes at once and waits with the usual patience. The answers are in the order of the probes.
    ///
    /// # Errors
    /// If a probe names an unknown end, has no address of the destination's family, or the kernel refuses a socket.
    pub fn probe(&self, probes: &[Probe]) -> Result<Vec<Observation>, LabError> {
        self.probe_with(probes, Patience::default())
    }

    /// As [`Self::probe`], with another patience.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn probe_with(
        &self,
        probes: &[Probe],
        patience: Patience,
    ) -> Result<Vec<Observation>, LabError> {
        let shots =
            probes.iter().map(|probe| self.aim(probe)).collect::<Result<Vec<Shot>, LabError>>()?;
        let mut observations = engine::fire(self, &shots, patience.timeout)?;
        for _ in 0..patience.repeats {
            let missed = || {
                observations
                    .iter()
                    .enumerate()
                    .filter(|(_, seen)| !seen.has_passed())
                    .map(|(index, _)| index)
            };
            let again: Vec<Shot> = missed().filter_map(|index| shots.get(index).copied()).collect();
            if again.is_empty() {
                break;
            }
            let missed: Vec<usize> = missed().collect();
            for (index, seen) in
                missed.into_iter().zip(engine::fire(self, &again, patience.timeout)?)
            {
                if let Some(observation) = observations.get_mut(index) {
                    *observation = seen;
                }
            }
        }
        Ok(observations)
    }

    pub(super) fn aim(&self, probe: &Probe) -> Result<Shot, LabError> {
        let from = self.host_id(&probe.from)?;
        let no_address =
            || LabError::NoAddressOfFamily { from: probe.from.to_string(), to: probe.to };
        let source = match probe.from {
            End::External(address) if address.is_ipv4() == probe.to.is_ipv4() => address,
            End::External(_) => return Err(no_address()),
            End::Node(_) | End::Pod(_) => {
                self.host(from)?.address_like(probe.to).ok_or_else(no_address)?
            }
        };
        let owner = self.owners.get(&probe.to).copied();
        let at =
            owner.ok_or_else(|| LabError::Unknown(format!("host that owns `{}`", probe.to)))?;
        match probe.traffic {
            Traffic::Protocol(number) if !is_bare_protocol(number) => {
                Err(LabError::Protocol(number))
            }
            Traffic::Icmp
            | Traffic::Protocol(_)
            | Traffic::Sctp(_)
            | Traffic::Tcp(_)
            | Traffic::Udp(_) => {
                Ok(Shot { from, source, at, to: probe.to, traffic: probe.traffic })
            }
        }
    }
}
