//! What a backend's rules cost a packet: processor time of short connections and of ping-pong through a node between two
//! veths, beside a node without rules and one that only tracks connections.
//!
//! `cargo bench -p netpol-conformance --bench packets --features kernel-tests` prints the tables of docs/benchmarks.md;
//! needs root. All nodes exist at once and are measured in turn, each next to its own baseline; a figure is the median of
//! the ratios. `-- nft ebpf` measures only these backends, `-- --rounds N` as many rounds (60), `-- --ipv6` the other
//! family, `-- --small` only the smallest sizes, `-- --plots DIR` also draws the curves into a folder.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "a benchmark prints figures"
)]

#[path = "../engine/plot.rs"]
mod plot;
mod report;
mod router;
mod shape;
mod traffic;

use netpol_core::ir::Family;

use crate::report::{Measured, Report};
use crate::router::{Backend, Router, Rules, Tool};
use crate::shape::Shape;
use crate::traffic::Kind;

/// What the command line asks for.
struct Wanted {
    backends: Vec<Backend>,
    rounds: usize,
    family: Family,
    small: bool,
    plots: Option<String>,
}

impl Wanted {
    fn read() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name)?;
            arguments.get(at + 1).cloned()
        };
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let named: Vec<Backend> =
            Backend::ALL.into_iter().filter(|backend| has(backend.name())).collect();
        Self {
            backends: if named.is_empty() { Backend::ALL.into() } else { named },
            rounds: value("--rounds").map_or(60, |rounds| rounds.parse().unwrap()),
            family: if has("--ipv6") { Family::V6 } else { Family::V4 },
            small: has("--small"),
            plots: value("--plots"),
        }
    }

    fn shapes(&self) -> Vec<Shape> {
        if self.small {
            return vec![Shape::Policies(10), Shape::Peers(10), Shape::BothEnds];
        }
        let mut shapes = Vec::new();
        shapes.extend([10, 1_000, 10_000].map(Shape::Policies));
        shapes.extend([10, 1_000, 10_000].map(Shape::Stacked));
        shapes.extend([10, 1_000, 100_000].map(Shape::Peers));
        shapes.push(Shape::BothEnds);
        shapes
    }
}

fn main() {
    let wanted = Wanted::read();
    let mut report = Report::default();
    let smallest = Shape::Policies(10);
    let ruleset = smallest.ruleset();
    let build = |rules| {
        let mut router = Router::build(rules, smallest, wanted.family, &ruleset);
        router.prove(wanted.family);
        router
    };
    let mut none = build(Rules::None);
    let mut tracked: Vec<(Tool, Router)> = [Tool::Nft, Tool::IptablesNft, Tool::IptablesLegacy]
        .into_iter()
        .filter(|tool| wanted.backends.iter().any(|backend| backend.baseline() == *tool))
        .map(|tool| (tool, build(Rules::Tracked(tool))))
        .collect();
    let mut routers = Vec::new();
    for shape in wanted.shapes() {
        let ruleset = shape.ruleset();
        for backend in &wanted.backends {
            let rules = Rules::Backend(*backend);
            let mut router = Router::build(rules, shape, wanted.family, &ruleset);
            router.prove(wanted.family);
            eprintln!("{} {shape:?}: loaded in {:.0?}", backend.name(), router.loaded);
            report.loaded(*backend, shape, router.loaded);
            routers.push((*backend, shape, router));
        }
    }
    for round in 0..=wanted.rounds {
        for kind in Kind::ALL {
            let bare = none.measure(kind, kind.repeats());
            for (tool, router) in &mut tracked {
                let took = router.measure(kind, kind.repeats());
                report.tracked(*tool, kind, took, bare);
            }
            for (backend, shape, router) in &mut routers {
                let tool = backend.baseline();
                let baseline = tracked.iter_mut().find(|(other, _)| *other == tool).unwrap();
                let baseline = baseline.1.measure(kind, kind.repeats());
                let took = router.measure(kind, kind.repeats());
                // The first round fills caches and tables.
                if round > 0 {
                    report.add(Measured { backend: *backend, shape: *shape, kind, took, baseline });
                }
            }
        }
    }
    println!("{report}");
    if let Some(folder) = &wanted.plots {
        report.draw(folder);
    }
}
