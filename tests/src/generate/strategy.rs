//! The generator as a proptest strategy.

use alloc::vec::Vec;

use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::{Case, Shape, case, reductions};

/// Cases of a shape, shrunk by taking the objects apart.
#[must_use]
pub const fn cases(shape: Shape) -> Cases {
    Cases(shape)
}

/// See [`cases`].
#[derive(Clone, Copy, Debug)]
pub struct Cases(Shape);

impl Strategy for Cases {
    type Tree = CaseTree;
    type Value = Case;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let seed = proptest::num::u64::ANY.new_tree(runner)?.current();
        Ok(CaseTree { current: case(seed, self.0), failing: None, untried: Vec::new() })
    }
}

/// A case with the smaller ones not yet tried.
#[derive(Clone, Debug)]
pub struct CaseTree {
    current: Case,
    /// The smallest case known to fail, once there is one.
    failing: Option<Case>,
    /// Smaller cases than that, the next one last.
    untried: Vec<Case>,
}

impl ValueTree for CaseTree {
    type Value = Case;

    fn current(&self) -> Case {
        self.current.clone()
    }

    /// The current case fails: go on with one that is smaller.
    fn simplify(&mut self) -> bool {
        self.untried = reductions(&self.current);
        self.untried.reverse();
        self.failing = Some(self.current.clone());
        self.complicate()
    }

    /// The current case does not fail: try another, and end with the one that does.
    fn complicate(&mut self) -> bool {
        if let Some(next) = self.untried.pop() {
            self.current = next;
            return true;
        }
        if let Some(failing) = self.failing.take() {
            self.current = failing;
        }
        false
    }
}
