//! What an embedder chooses about the table.

use netpol_core::backend::Established;

use crate::script::Stamp;

/// Choices of an embedder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct NftOptions {
    /// What becomes of open connections that a later ruleset denies.
    pub established: Established,
    /// The bits of the connection mark that are ours under [`Established::Recheck`]; a row of at least two without gaps.
    ///
    /// The default leaves alone what others are known to use: 0x80 (AWS VPC CNI), 0xfff (Istio), 0x2000 (portmap),
    /// 0x4000 and 0x8000 (kube-proxy), 0xf0000 (kube-router, Tailscale).
    pub mark: u32,
    /// The group of netfilter's log (NFLOG) that denied flows are reported to; `None` reports none.
    pub log_group: Option<u16>,
    /// How many packets a second are reported for one cause, and as many more at once.
    pub log_rate: u32,
    /// Whether others may change the table.
    pub ownership: Ownership,
}

/// Whether others may change the table, while the [`NftDataplane`](crate::NftDataplane) lives that made it or took it over.
///
/// What the kernel knows as owner is a socket, and so one value of one process. With its end, by whatever means, nobody owns
/// the table, which stays as it is; the next that is told to own takes it over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "not at all, at any price, or where it costs nothing")]
pub enum Ownership {
    /// They may.
    ///
    /// The default, as only who stays should shut others out: with a value that is made for one call, or beside another one of
    /// the same namespace, ownership is in the way.
    #[default]
    Shared,
    /// They may not, where the kernel can do that (Linux 6.9) and the table is new or has been owned; otherwise they may.
    ///
    /// For agents: `flush ruleset` of others passes the table by, and `nft` cannot change it while the agent runs.
    Preferred,
    /// They may not. An error where the kernel cannot do that; a table that was made without is replaced.
    Required,
}

impl Default for NftOptions {
    fn default() -> Self {
        Self {
            established: Established::default(),
            mark: 0xfff0_0000,
            log_group: Some(27_420),
            log_rate: 10,
            ownership: Ownership::default(),
        }
    }
}

/// How a ruleset is lowered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style {
    /// The generation that passes, if open connections are judged again.
    pub(crate) stamp: Option<Stamp>,
    /// The generation that connections get, if another one.
    pub(crate) written: Option<Stamp>,
    /// Where denied flows are reported to, and how many a second.
    pub(crate) reports: Option<(u16, u32)>,
}

impl NftOptions {
    /// Returns how rulesets are lowered.
    pub(crate) fn style(&self) -> Style {
        let rate = self.log_rate.max(1);
        let reports = self.log_group.map(|group| (group, rate));
        Style { stamp: self.first_stamp(), written: None, reports }
    }

    /// Returns the first generation; `None` where connections are not judged again.
    pub(crate) const fn first_stamp(&self) -> Option<Stamp> {
        match self.established {
            Established::Keep => None,
            Established::Recheck => {
                let mask = self.mask();
                Some(Stamp { mask, value: 1 << mask.trailing_zeros() })
            }
        }
    }

    /// Returns the mask, or the default where it is none that can count.
    const fn mask(&self) -> u32 {
        let bits = self.mark.count_ones();
        let row = bits + self.mark.leading_zeros() + self.mark.trailing_zeros() == u32::BITS;
        if bits >= 2 && row { self.mark } else { 0xfff0_0000 }
    }
}

impl Stamp {
    /// Returns the generation behind this one; zero is left out.
    #[cfg(feature = "apply")]
    pub(crate) const fn next(self) -> Self {
        let step = 1_u32 << self.mask.trailing_zeros();
        let value = self.value.wrapping_add(step) & self.mask;
        Self { value: if value == 0 { step } else { value }, ..self }
    }

    /// Returns whether the generation lies in the upper half of all there are.
    #[cfg(feature = "apply")]
    pub(crate) const fn is_high(self) -> bool {
        self.value & self.high_bit() != 0
    }

    /// Returns the highest bit of the mask.
    #[cfg(feature = "apply")]
    pub(crate) const fn high_bit(self) -> u32 {
        1 << (u32::BITS - 1 - self.mask.leading_zeros())
    }
}

#[cfg(test)]
mod tests {
    use super::NftOptions;

    #[cfg(feature = "apply")]
    #[test]
    fn generations_go_round_and_leave_zero_out() {
        let options = NftOptions { mark: 0x0000_0c00, ..NftOptions::default() };
        let first = options.first_stamp().unwrap();
        assert_eq!((first.mask, first.value), (0xc00, 0x400));
        assert_eq!(first.next().value, 0x800);
        assert_eq!(first.next().next().value, 0xc00);
        assert_eq!(first.next().next().next(), first);
    }

    #[test]
    fn a_mask_with_gaps_is_not_used() {
        let options = NftOptions { mark: 0x5000_0000, ..NftOptions::default() };
        assert_eq!(options.first_stamp(), NftOptions::default().first_stamp());
    }
}
