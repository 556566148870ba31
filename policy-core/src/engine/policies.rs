//! Policies, the pods they apply to, and the classes of those by what port names mean on them.

use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Engine;
use super::interner::{Interner, ShortHash};
use super::pods::View;
use super::query::Among;
use super::selections::Reach;
use super::slab::{Id, Slab};
use crate::compile::plan::{Plan, Resolution, Side};
use crate::ir::{PolicyKind, PolicyRef};
use crate::model::ObjectRef;

/// The policies, whether or not they apply to a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    pub(super) slab: Slab<Policy>,
    by_name: HashTable<(ShortHash, Id)>,
    hasher: DefaultHashBuilder,
    /// The sides of all plans: most policies of a large cluster are made from a few templates.
    templates: Interner<Arc<Side>>,
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) plan: Arc<Plan>,
    /// The selection of its subject, once it is asked.
    subject: Option<Id>,
    /// The pods of the scope it applies to.
    pub(super) pods: BTreeSet<Id>,
    /// For each side of the plan, its classes.
    pub(super) sides: Vec<Vec<Class>>,
    /// Classes of an older plan, held until those of this one are made.
    pub(super) retired: Vec<Class>,
}

/// The pods on which the port names of a side mean the same; all of them where it names none.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) resolution: Resolution,
    /// How many pods.
    pub(super) pods: usize,
    pub(super) made: Made,
}

/// What became of a class.
#[derive(Clone, Debug, Default)]
pub(super) enum Made {
    /// Nothing yet.
    #[default]
    Not,
    /// A block, if it has an effect, and the tallies that it hangs on.
    Block { block: Option<Id>, tallies: Vec<Id> },
}

impl Policy {
    /// Returns the classes of a pod with the sides they are of.
    pub(super) fn classes(
        &self,
        resolve: impl Fn(&Side) -> Resolution,
    ) -> impl Iterator<Item = (&Side, &Class)> {
        self.plan.sides.iter().zip(&self.sides).filter_map(move |(side, classes)| {
            let class = match classes.as_slice() {
                [only] if only.resolution.is_empty() => only,
                many => many.get(place(many, &resolve(side)).ok()?)?,
            };
            Some((side.as_ref(), class))
        })
    }
}

fn place(classes: &[Class], resolution: &Resolution) -> Result<usize, usize> {
    classes.binary_search_by(|class| class.resolution.cmp(resolution))
}

impl Policies {
    fn find(&self, kind: PolicyKind, object: &ObjectRef) -> Option<Id> {
        let hash = ShortHash::of(&self.hasher, &(kind, object));
        let same = |(_, id): &(ShortHash, Id)| {
            let found = self.slab.get(*id).map(|policy| &policy.plan.policy);
            found.is_some_and(|found| found.kind == kind && found.object == *object)
        };
        self.by_name.find(hash.spread(), same).map(|(_, id)| *id)
    }

    fn insert(&mut self, policy: Policy) -> Id {
        let PolicyRef { kind, object, .. } = &*policy.plan.policy;
        let hash = ShortHash::of(&self.hasher, &(*kind, object));
        let id = self.slab.insert(policy);
        self.by_name.insert_unique(hash.spread(), (hash, id), |(hash, _)| hash.spread());
        id
    }

    fn remove(&mut self, id: Id) -> Option<Policy> {
        let policy = self.slab.remove(id)?;
        let PolicyRef { kind, object, .. } = &*policy.plan.policy;
        let hash = ShortHash::of(&self.hasher, &(*kind, object));
        if let Ok(found) = self.by_name.find_entry(hash.spread(), |(_, other)| *other == id) {
            found.remove();
        }
        Some(policy)
    }

    /// Lets the plan share its sides with others that say the same.
    fn share(&mut self, plan: &mut Plan) {
        for side in &mut plan.sides {
            let id = self.templates.acquire::<Side>(side, || side.clone());
            if let Some(shared) = self.templates.get(id) {
                *side = shared.clone();
            }
        }
    }

    fn unshare(&mut self, plan: &Plan) {
        for side in &plan.sides {
            if let Some(id) = self.templates.find::<Side>(side) {
                self.templates.release::<Side>(id);
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let templates = self.templates.iter().map(|(_, side)| side_bytes(side));
        let each = self.slab.iter().map(|(_, policy)| {
            let sides = policy.sides.iter().map(|classes| classes.capacity() * size_of::<Class>());
            PLAN_BYTES
                + super::memory::btree_bytes::<Id>(policy.pods.len())
                + policy.sides.capacity() * size_of::<Vec<Class>>()
                + sides.sum::<usize>()
        });
        self.slab.heap_bytes()
            + self.by_name.allocation_size()
            + self.templates.heap_bytes()
            + templates.sum::<usize>()
            + each.sum::<usize>()
    }
}

/// A plan without its sides, and the reference to its policy.
const PLAN_BYTES: usize = size_of::<Plan>() + size_of::<PolicyRef>() + 120;

fn side_bytes(side: &Side) -> usize {
    let rules = side
        .rules
        .iter()
        .map(|rule| size_of_val(rule) + rule.ends.capacity() * 96 + rule.names.capacity() * 24);
    size_of::<Side>() + rules.sum::<usize>()
}

impl Engine {
    pub(super) fn put_policy(&mut self, mut plan: Plan) {
        self.policies.share(&mut plan);
        let plan = Arc::new(plan);
        let Some(id) = self.policies.find(plan.policy.kind, &plan.policy.object) else {
            let id = self.policies.insert(Policy {
                sides: alloc::vec![Vec::new(); plan.sides.len()],
                plan,
                subject: None,
                pods: BTreeSet::new(),
                retired: Vec::new(),
            });
            return self.ask_for_subject(id);
        };
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        if policy.plan == plan {
            return self.policies.unshare(&plan);
        }
        if policy.plan.subject != plan.subject {
            self.withdraw(id);
        }
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        policy.retired.extend(policy.sides.drain(..).flatten());
        policy.sides = alloc::vec![Vec::new(); plan.sides.len()];
        let old = core::mem::replace(&mut policy.plan, plan);
        let is_asked = policy.subject.is_some();
        let pods: Vec<Id> = policy.pods.iter().copied().collect();
        self.policies.unshare(&old);
        for pod in pods {
            let Some(ports) = self.pods.slab.get(pod).map(|pod| pod.ports) else { continue };
            self.enter_classes(id, ports);
        }
        self.work.rebuild_all(id); // Also where it applies to no pod any more: the old classes must go.
        if !is_asked {
            self.ask_for_subject(id);
        }
    }

    pub(super) fn delete_policy(&mut self, kind: PolicyKind, object: ObjectRef) {
        let Some(id) = self.policies.find(kind, &object) else { return };
        self.withdraw(id);
        let Some(gone) = self.policies.remove(id) else { return };
        let classes = gone.retired.into_iter().chain(gone.sides.into_iter().flatten());
        classes.for_each(|class| self.drop_class(id, class));
        self.policies.unshare(&gone.plan);
    }

    pub(super) fn ask_for_all_subjects(&mut self) {
        let policies: Vec<Id> = self.policies.slab.iter().map(|(id, _)| id).collect();
        policies.into_iter().for_each(|id| self.ask_for_subject(id));
    }

    /// Finds the pods a policy applies to, once there is a reason to.
    fn ask_for_subject(&mut self, id: Id) {
        if !self.is_live {
            return;
        }
        let Some(plan) = self.policies.slab.get(id).map(|policy| policy.plan.clone()) else {
            return;
        };
        let Some((namespaces, pods)) = &plan.subject else { return };
        let question = self.question(namespaces, pods);
        let places = match self.subjects.find(&question) {
            Some(_) => Vec::new(),
            None => self.places(question.reach),
        };
        let selected = self.query(&question, Among::Local);
        let reach = question.reach;
        let added = self.subjects.add(question, id, &places);
        if let Some(surplus) = added.surplus {
            self.drop_question(&surplus);
        } else if let Reach::Matching(selector) = reach
            && let Some(selector) = self.namespaces.selectors.get_mut(selector)
        {
            selector.subjects.push(added.id);
        }
        if let Some(policy) = self.policies.slab.get_mut(id) {
            policy.subject = Some(added.id);
        }
        for pod in selected {
            let Some(ports) = self.pods.slab.get(pod).map(|pod| pod.ports) else { continue };
            self.enter_subject(id, pod, ports);
        }
        self.work.rebuild_all(id);
    }

    /// Takes a policy off its pods.
    fn withdraw(&mut self, id: Id) {
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        let Some(selection) = policy.subject.take() else { return };
        for pod in core::mem::take(&mut policy.pods) {
            if let Some(subject) = self.pods.slab.get_mut(pod).and_then(|pod| pod.subject.as_mut())
            {
                subject.policies.remove(&id);
                self.work.bind(pod);
            }
        }
        let Some(known) = self.subjects.get(selection) else { return };
        let places =
            if known.users.len() == 1 { self.places(known.question.reach) } else { Vec::new() };
        let Some(gone) = self.subjects.remove(selection, id, &places) else { return };
        if let Reach::Matching(selector) = gone.question.reach
            && let Some(selector) = self.namespaces.selectors.get_mut(selector)
        {
            selector.subjects.retain(|other| *other != selection);
        }
        self.drop_question(&gone.question);
    }

    /// A policy comes to apply to a pod.
    pub(super) fn enter_subject(&mut self, id: Id, pod: Id, ports: Id) {
        let Some(policy) = self.policies.slab.get_mut(id) else { return };
        if !policy.pods.insert(pod) {
            return;
        }
        if let Some(subject) = self.pods.slab.get_mut(pod).and_then(|pod| pod.subject.as_mut()) {
            subject.policies.insert(id);
        }
        self.work.bind(pod);
        self.enter_classes(id, ports);
    }

    /// A policy ceases to apply to a pod.
    pub(super) fn leave_subject(&mut self, id: Id, pod: Id, ports: Id) {
        let Self { policies, pods, symbols, work, .. } = self;
        let Some(policy) = policies.slab.get_mut(id) else { return };
        if !policy.pods.remove(&pod) {
            return;
        }
        if let Some(subject) = pods.slab.get_mut(pod).and_then(|pod| pod.subject.as_mut()) {
            subject.policies.remove(&id);
            work.bind(pod);
        }
        for (side, classes) in policy.plan.sides.iter().zip(&mut policy.sides) {
            let resolution = resolution(side, pods, symbols, ports);
            if let Ok(at) = place(classes, &resolution)
                && let Some(class) = classes.get_mut(at)
            {
                class.pods -= 1;
                if class.pods == 0 {
                    work.rebuild(id);
                }
            }
        }
    }

    fn enter_classes(&mut self, id: Id, ports: Id) {
        let Self { policies, pods, symbols, work, .. } = self;
        let Some(policy) = policies.slab.get_mut(id) else { return };
        for (side, classes) in policy.plan.sides.iter().zip(&mut policy.sides) {
            let resolution = resolution(side, pods, symbols, ports);
            match place(classes, &resolution) {
                Ok(at) => {
                    if let Some(class) = classes.get_mut(at) {
                        class.pods += 1;
                    }
                }
                Err(at) => {
                    classes.reserve_exact(1); // One class is all that most policies ever have.
                    classes.insert(at, Class { resolution, pods: 1, made: Made::Not });
                    work.rebuild(id);
                }
            }
        }
    }

    /// Moves pods into or out of the policies of a selection of subjects.
    pub(super) fn move_subjects(&mut self, selection: Id, views: &[(Id, View)], joins: bool) {
        let Some(known) = self.subjects.get(selection) else { return };
        let (pods, users) = (known.question.pods.clone(), known.users.clone());
        for (id, view) in views {
            if !view.is_local || !pods.matches(self.labels.labels(view.labels)) {
                continue;
            }
            for policy in &users {
                if joins {
                    self.enter_subject(*policy, *id, view.ports);
                } else {
                    self.leave_subject(*policy, *id, view.ports);
                }
            }
        }
    }

    /// Returns the numbers that the names of a side have on a pod with these ports.
    pub(super) fn resolution(&self, side: &Side, ports: Id) -> Resolution {
        resolution(side, &self.pods, &self.symbols, ports)
    }
}

fn resolution(
    side: &Side,
    pods: &super::pods::Pods,
    symbols: &super::labels::Symbols,
    ports: Id,
) -> Resolution {
    if !side.asks_subject() {
        return Resolution::new();
    }
    side.resolution(|name| {
        let symbol = symbols.find::<str>(name);
        symbol.into_iter().flat_map(move |symbol| pods.numbers(ports, symbol))
    })
}
