//! Where the program at interfaces is shown packets that nobody sent.

/// A hook of an interface, and where the packet was before.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[expect(clippy::exhaustive_enums, reason = "all that the program tells apart")]
pub enum Side {
    /// From a pod.
    FromPod,
    /// To a pod, from some other interface.
    ToPod,
    /// To a pod, by the node itself (NP-125).
    ToPodByNode,
    /// To a pod, by the interface that it came from. Interface 1 stands for it.
    ToPodBack,
}

impl Side {
    /// Writes as much of `struct __sk_buff` as the program reads.
    pub(crate) fn context(self) -> [u8; 192] {
        /// The interface that a packet is at where none is said: loopback.
        const HERE: u32 = 1;
        const ELSEWHERE: u32 = 99;
        const INGRESS_IFINDEX: usize = 36;
        const CB: usize = 48;
        let (to_pod, ingress) = match self {
            Self::FromPod => (0_u32, HERE),
            Self::ToPod => (1, ELSEWHERE),
            Self::ToPodByNode => (1, 0),
            Self::ToPodBack => (1, HERE),
        };
        let mut context = [0; 192];
        for (offset, value) in [(INGRESS_IFINDEX, ingress), (CB, to_pod)] {
            if let Some(place) = context.get_mut(offset..offset + 4) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        context
    }
}
