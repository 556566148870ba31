//! Objects back from the engine, as far as policy looks at them: for whoever has to name and explain, and keeps no copy of
//! the cluster.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Engine;
use super::labels::Symbol;
use super::slab::Id;
use crate::model::{
    Container, ContainerPort, Labels, Namespace, Node, ObjectMeta, ObjectRef, Phase, Pod,
};

impl Engine {
    /// Returns a policed pod that claims an address: labels, node, named ports, and the addresses it owns.
    ///
    /// What policy does not look at is not there: other pods, unnamed ports, which container a port belongs to.
    #[must_use]
    pub fn pod(&self, object: &ObjectRef) -> Option<Pod> {
        let namespace = self.namespaces.all.find::<str>(&object.namespace)?;
        self.recall_pod(self.pods.find(namespace, &object.name)?)
    }

    /// Returns the pod that owns an address, wherever it runs.
    #[must_use]
    pub fn pod_with(&self, address: IpAddr) -> Option<Pod> {
        self.recall_pod(self.pods.claims.owner(address)?)
    }

    /// Returns a namespace that is declared or mentioned, with its labels.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<Namespace> {
        let known = self.namespaces.all.get(self.namespaces.all.find::<str>(name)?)?;
        let mut namespace = Namespace::new(name, self.recall_labels(known.labels?));
        namespace.declared = known.is_declared;
        Some(namespace)
    }

    /// Returns the nodes: labels and addresses.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.nodes.iter().map(|(name, node)| {
            let object = ObjectRef { namespace: "".into(), name: name.clone() };
            let labels = self.recall_labels(node.labels());
            let meta = ObjectMeta { object, labels, ..ObjectMeta::default() };
            Node { meta, addresses: node.addresses().to_vec(), ..Node::default() }
        })
    }

    fn recall_pod(&self, id: Id) -> Option<Pod> {
        let pod = self.pods.slab.get(id)?;
        let namespace = self.namespaces.all.get(pod.namespace)?.name.clone();
        let ports = self.pods.ports.get(pod.ports).map(AsRef::as_ref).unwrap_or_default();
        let ports: Vec<ContainerPort> = ports
            .iter()
            .map(|(name, protocol, port)| ContainerPort {
                name: self.text(*name),
                port: *port,
                protocol: *protocol,
            })
            .collect();
        Some(Pod {
            meta: ObjectMeta {
                object: ObjectRef { namespace, name: pod.name.clone() },
                created: self.text(pod.created),
                labels: self.recall_labels(pod.labels),
                ..ObjectMeta::default()
            },
            node: self.text(pod.node),
            phase: if pod.stays { Phase::Running } else { Phase::Unknown },
            addresses: self.pods.owned_by(id, pod).collect(),
            containers: alloc::vec![Container::Main(ports)],
            ..Pod::default()
        })
    }

    fn recall_labels(&self, labels: Id) -> Labels {
        let labels = self.labels.labels(labels).iter();
        Labels(
            labels
                .filter_map(|(key, value)| Some((self.text(*key)?, self.text(*value)?)))
                .collect(),
        )
    }

    fn text(&self, symbol: Symbol) -> Option<Arc<str>> {
        self.symbols.get(symbol).cloned()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::num::NonZeroU16;

    use super::{Container, ContainerPort, Engine, Labels, Node, ObjectMeta, ObjectRef, Pod};
    use crate::compile::Options;
    use crate::engine::Event;
    use crate::model::{Namespace, Phase, Protocol};

    #[test]
    fn what_policy_looks_at_comes_back_as_it_went_in() {
        let mut engine = Engine::new(Options::default());
        let port = ContainerPort {
            name: Some("http".into()),
            port: NonZeroU16::new(80).unwrap(),
            protocol: Protocol::Tcp,
        };
        let meta = ObjectMeta::new("shop", "web", Labels::from_iter([("app", "web"), ("a", "b")]));
        let pod = Pod {
            meta: ObjectMeta { created: Some("2026-01-01T00:00:00Z".into()), ..meta },
            node: Some("n1".into()),
            phase: Phase::Running,
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            containers: vec![Container::Main(vec![port])],
            ..Pod::default()
        };
        let namespace = Namespace::new("shop", Labels::from_iter([("team", "a")]));
        let object = ObjectRef::cluster_scoped("n1");
        let node = Node {
            meta: ObjectMeta { object, ..ObjectMeta::default() },
            addresses: vec!["192.0.2.1".parse().unwrap()],
            ..Node::default()
        };
        engine.apply(Event::PutPod(pod.clone()));
        engine.apply(Event::PutNamespace(namespace.clone()));
        engine.apply(Event::PutNode(node.clone()));
        engine.apply(Event::InSync);
        assert_eq!(engine.pod(&pod.meta.object).as_ref(), Some(&pod));
        assert_eq!(engine.pod_with(pod.addresses[1]).as_ref(), Some(&pod));
        assert_eq!(engine.namespace("shop"), Some(namespace));
        assert_eq!(engine.nodes().collect::<vec::Vec<_>>(), [node]);
        // One that claims the same address and came later owns it.
        let mut rival = pod.clone();
        rival.meta.object = ObjectRef::new("shop", "rival");
        rival.meta.created = Some("2026-01-02T00:00:00Z".into());
        rival.addresses.truncate(1);
        engine.apply(Event::PutPod(rival.clone()));
        assert_eq!(engine.pod_with(pod.addresses[0]), Some(rival));
        assert_eq!(engine.pod(&pod.meta.object).unwrap().addresses, pod.addresses[1..]);
        assert_eq!(engine.pod(&ObjectRef::new("shop", "nobody")), None);
    }
}
