//! Which pods policies look at: canonical selections, each shared by all that ask the same.

use core::borrow::Borrow;

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::index::{Anchor, EVERYWHERE, SelectorIndex};
use super::interner::Interner;
use super::labels::{Label, Matcher};
use super::slab::Id;

/// Which namespaces a selection looks into.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Reach {
    /// One namespace.
    One(Id),
    /// Every namespace.
    All,
    /// Those that a namespace selector matches.
    Matching(Id),
}

/// What names a selection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Question {
    pub(super) reach: Reach,
    pub(super) pods: Matcher,
}

/// Pods by namespace and label. Its members are not kept: whoever uses them keeps what it makes of them.
#[derive(Clone, Debug)]
pub(super) struct Selection<U> {
    pub(super) question: Question,
    pub(super) users: Vec<U>,
    anchor: Anchor,
}

impl<U> Borrow<Question> for Selection<U> {
    fn borrow(&self) -> &Question {
        &self.question
    }
}

/// A selection with a new user.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) id: Id,
    /// The question, if the selection was there already.
    pub(super) surplus: Option<Question>,
}

/// The selections of one kind of user.
#[derive(Clone, Debug)]
pub(super) struct Selections<U> {
    all: Interner<Selection<U>>,
    index: SelectorIndex,
}

impl<U> Default for Selections<U> {
    fn default() -> Self {
        Self { all: Interner::default(), index: SelectorIndex::default() }
    }
}

impl<U: Copy + PartialEq> Selections<U> {
    pub(super) fn find(&self, question: &Question) -> Option<Id> {
        self.all.find(question)
    }

    pub(super) fn get(&self, id: Id) -> Option<&Selection<U>> {
        self.all.get(id)
    }

    /// Adds a user. A selection that is new is filed in `places`.
    ///
    /// Returns the question if somebody asked the same before, and the selection holds that one's.
    pub(super) fn add(&mut self, question: Question, user: U, places: &[Id]) -> Added {
        let Self { all, index } = self;
        if let Some(id) = all.find(&question) {
            all.retain(id);
            if let Some(selection) = all.get_mut(id) {
                selection.users.push(user);
            }
            return Added { id, surplus: Some(question) };
        }
        let place = places.first().copied().unwrap_or(EVERYWHERE);
        let anchor = index.anchor(place, &question.pods);
        let id = all.insert::<Question>(Selection { question, users: alloc::vec![user], anchor });
        if let Some(selection) = all.get(id) {
            let pods = &selection.question.pods;
            places.iter().for_each(|place| index.file(*place, pods, anchor, id));
        }
        Added { id, surplus: None }
    }

    /// Takes a user away. Returns the selection if that was the last one; it is no longer filed in `places`.
    pub(super) fn remove(&mut self, id: Id, user: U, places: &[Id]) -> Option<Selection<U>> {
        let selection = self.all.get_mut(id)?;
        if let Some(at) = selection.users.iter().position(|other| *other == user) {
            selection.users.swap_remove(at);
        }
        let gone = self.all.release::<Question>(id)?;
        for place in places {
            self.index.unfile(*place, &gone.question.pods, gone.anchor, id);
        }
        Some(gone)
    }

    /// Puts a user in the place of another.
    pub(super) fn rename(&mut self, id: Id, old: U, new: U) {
        let users = self.all.get_mut(id).map(|selection| selection.users.iter_mut());
        if let Some(user) = users.and_then(|mut users| users.find(|user| **user == old)) {
            *user = new;
        }
    }

    pub(super) fn file(&mut self, id: Id, place: Id) {
        let Self { all, index } = self;
        if let Some(selection) = all.get(id) {
            index.file(place, &selection.question.pods, selection.anchor, id);
        }
    }

    pub(super) fn unfile(&mut self, id: Id, place: Id) {
        let Self { all, index } = self;
        if let Some(selection) = all.get(id) {
            index.unfile(place, &selection.question.pods, selection.anchor, id);
        }
    }

    /// Returns the selections that hold a pod of a namespace, ascending.
    pub(super) fn of_pod(
        &self,
        namespace: Id,
        labels: &[Label],
        spreads: impl Fn(Id) -> bool,
    ) -> Vec<Id> {
        let mut found = Vec::new();
        let mut consider = |id: Id| {
            let Some(selection) = self.all.get(id) else { return };
            let reaches = match selection.question.reach {
                Reach::One(only) => only == namespace,
                Reach::All => true,
                Reach::Matching(selector) => spreads(selector),
            };
            if reaches && selection.question.pods.matches(labels) {
                found.push(id);
            }
        };
        self.index.candidates(&[namespace, EVERYWHERE], labels, &mut consider);
        found.sort_unstable();
        found
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let each = self.all.iter().map(|(_, selection)| {
            selection.users.capacity() * size_of::<U>() + selection.question.pods.heap_bytes()
        });
        self.all.heap_bytes() + self.index.heap_bytes() + each.sum::<usize>()
    }
}

/// A namespace selector, resolved once for all selections that use it.
#[derive(Clone, Debug)]
pub(super) struct NamespaceSelector {
    pub(super) matcher: Matcher,
    /// The namespaces that match.
    pub(super) matching: BTreeSet<Id>,
    /// Whether its selections are filed everywhere rather than in each of the namespaces: it matches many.
    pub(super) is_wide: bool,
    pub(super) anchor: Anchor,
    /// Selections of policy subjects that use it.
    pub(super) subjects: Vec<Id>,
    /// Selections of peers that use it.
    pub(super) peers: Vec<Id>,
}

impl Borrow<Matcher> for NamespaceSelector {
    fn borrow(&self) -> &Matcher {
        &self.matcher
    }
}

impl NamespaceSelector {
    pub(super) fn places(&self) -> Vec<Id> {
        if self.is_wide { alloc::vec![EVERYWHERE] } else { self.matching.iter().copied().collect() }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.matcher.heap_bytes()
            + super::memory::btree_bytes::<Id>(self.matching.len())
            + (self.subjects.capacity() + self.peers.capacity()) * size_of::<Id>()
    }
}
