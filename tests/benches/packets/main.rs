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

use netpol_core::ir::{Family, Parts, Ruleset};

use crate::report::{Report, Sample};
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

/// A backend's rules for one shape.
struct Subject {
    backend: Backend,
    shape: Shape,
    router: Router,
    /// Which of the baselines has the same client.
    baseline: usize,
}

/// All nodes there are.
struct Routers {
    /// No rules at all.
    bare: Router,
    /// Only tracking, by tool, for the clients of each shape: what many sources cost is no backend's doing.
    tracked: Vec<(Tool, Shape, Router)>,
    subjects: Vec<Subject>,
}

impl Routers {
    fn build(wanted: &Wanted, report: &mut Report) -> Self {
        let build = |rules, shape, ruleset: &Ruleset| {
            let mut router = Router::build(rules, shape, wanted.family, ruleset);
            router.prove(wanted.family, &format!("{rules:?} {shape:?}"));
            router
        };
        let none = Ruleset::new(Parts::default());
        let mut routers = Self {
            bare: build(Rules::None, Shape::Policies(10), &none),
            tracked: Vec::new(),
            subjects: Vec::new(),
        };
        for shape in wanted.shapes() {
            let ruleset = shape.ruleset();
            for backend in wanted.backends.iter().copied() {
                let tool = backend.baseline();
                let of_shape =
                    |(other, at, _): &(Tool, Shape, Router)| (*other, *at) == (tool, shape);
                let baseline = routers.tracked.iter().position(of_shape).unwrap_or_else(|| {
                    let router = build(Rules::Tracked(tool), shape, &none);
                    routers.tracked.push((tool, shape, router));
                    routers.tracked.len() - 1
                });
                let router = build(Rules::Backend(backend), shape, &ruleset);
                eprintln!("{} {shape:?}: loaded in {:.0?}", backend.name(), router.loaded);
                report.loaded(backend, shape, router.loaded);
                routers.subjects.push(Subject { backend, shape, router, baseline });
            }
        }
        routers
    }

    fn round(&mut self, mut each: impl FnMut(Sample)) {
        for kind in Kind::ALL {
            let repeats = kind.repeats();
            let bare = self.bare.measure(kind, repeats);
            let mut seen: Vec<Tool> = Vec::new();
            for (tool, _, router) in &mut self.tracked {
                if !seen.contains(tool) {
                    seen.push(*tool);
                    let took = router.measure(kind, repeats);
                    each(Sample::Tracked { tool: *tool, kind, took, bare });
                }
            }
            for Subject { backend, shape, router, baseline } in &mut self.subjects {
                let baseline = self.tracked[*baseline].2.measure(kind, repeats);
                let took = router.measure(kind, repeats);
                each(Sample::Backend { backend: *backend, shape: *shape, kind, took, baseline });
            }
        }
    }
}

fn main() {
    let wanted = Wanted::read();
    let mut report = Report::default();
    let mut routers = Routers::build(&wanted, &mut report);
    // The first round fills caches and tables.
    routers.round(drop);
    for _ in 0..wanted.rounds {
        routers.round(|sample| report.add(sample));
    }
    println!("{report}");
    if let Some(folder) = &wanted.plots {
        report.draw(folder);
    }
}
