//! Strings that many objects share: label keys, label values, node names. Kept once, they are a good part of what ten
//! thousand pods cost.

use alloc::sync::Arc;
use std::collections::HashSet;

use netpol_core::model::{Container, Pod};

/// Fewer strings than this are not worth looking through.
const FEW: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Strings {
    known: HashSet<Arc<str>>,
    /// At this size, those that nobody else holds any more are let go.
    sweep_at: usize,
}

impl Strings {
    /// Returns the string that was first seen with this text.
    pub(super) fn share(&mut self, text: Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(&text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at.max(FEW) {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = self.known.len().saturating_mul(2);
        }
        self.known.insert(text.clone());
        text
    }
}

/// Has a pod share with others what they have in common.
pub(super) fn share_pod(pod: &mut Pod, strings: &mut Strings) {
    let mut share = |text: &mut Arc<str>| *text = strings.share(text.clone());
    share(&mut pod.meta.object.namespace);
    pod.node.iter_mut().for_each(&mut share);
    for container in &mut pod.containers {
        let (Container::Main(ports) | Container::Sidecar(ports) | Container::Init(ports)) =
            container;
        ports.iter_mut().filter_map(|port| port.name.as_mut()).for_each(&mut share);
        ports.shrink_to_fit();
    }
    pod.containers.shrink_to_fit();
    pod.addresses.shrink_to_fit();
    let labels = core::mem::take(&mut pod.meta.labels.0).into_iter();
    pod.meta.labels.0 =
        labels.map(|(key, value)| (strings.share(key), strings.share(value))).collect();
}

#[cfg(test)]
mod tests {
    use super::{FEW, Strings};
    use alloc::sync::Arc;

    #[test]
    fn equal_texts_are_kept_once_and_let_go_when_nobody_holds_them() {
        let mut strings = Strings::default();
        let first = strings.share("a".into());
        assert!(Arc::ptr_eq(&first, &strings.share("a".into())));
        for number in 0..10 * FEW {
            strings.share(number.to_string().into());
        }
        assert!(strings.known.len() <= FEW + 1, "{}", strings.known.len());
        assert!(Arc::ptr_eq(&first, &strings.share("a".into())));
    }
}
