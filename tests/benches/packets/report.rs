//! Medians of ratios, as tables and curves.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use crate::plot;
use crate::router::{Backend, Tool};
use crate::shape::Shape;
use crate::traffic::Kind;

/// One measurement and its neighbour.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sample {
    Tracked { tool: Tool, kind: Kind, took: Duration, bare: Duration },
    Backend { backend: Backend, shape: Shape, kind: Kind, took: Duration, baseline: Duration },
}

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    tracked: BTreeMap<Tool, [Samples; 3]>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    backend: Backend,
    shape: Shape,
    loaded: Duration,
    samples: [Samples; 3],
}

/// Microseconds, and ratios to the neighbour.
#[derive(Debug, Default)]
struct Samples {
    micros: Vec<f64>,
    ratios: Vec<f64>,
}

impl Samples {
    fn add(&mut self, took: Duration, baseline: Duration) {
        self.micros.push(took.as_secs_f64() * 1e6);
        self.ratios.push(took.as_secs_f64() / baseline.as_secs_f64());
    }

    fn ratio(&self) -> f64 {
        median(&self.ratios)
    }
}

impl Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} µs, {:.3}", median(&self.micros), self.ratio())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

const fn place(kind: Kind) -> usize {
    match kind {
        Kind::Tcp => 0,
        Kind::Udp => 1,
        Kind::PingPong => 2,
    }
}

impl Report {
    pub(crate) fn loaded(&mut self, backend: Backend, shape: Shape, loaded: Duration) {
        self.rows.push(Row { backend, shape, loaded, samples: Default::default() });
    }

    pub(crate) fn add(&mut self, sample: Sample) {
        match sample {
            Sample::Tracked { tool, kind, took, bare } => {
                self.tracked.entry(tool).or_default()[place(kind)].add(took, bare);
            }
            Sample::Backend { backend, shape, kind, took, baseline } => {
                let mut rows = self.rows.iter_mut();
                let row = rows.find(|row| (row.backend, row.shape) == (backend, shape)).unwrap();
                row.samples[place(kind)].add(took, baseline);
            }
        }
    }

    fn of(&self, backend: Backend, shape: Shape) -> impl Iterator<Item = &Row> {
        self.rows
            .iter()
            .filter(move |row| row.backend == backend && row.shape.name() == shape.name())
    }

    /// Returns the ratio of the largest size to the smallest, for each kind.
    fn growth(&self, backend: Backend, shape: Shape) -> Option<[f64; 3]> {
        let first = self.of(backend, shape).next()?;
        let last = self.of(backend, shape).last()?;
        (first.shape != last.shape)
            .then(|| std::array::from_fn(|at| last.samples[at].ratio() / first.samples[at].ratio()))
    }

    /// Draws, for policies and for peers, what a short TCP connection costs each backend.
    pub(crate) fn draw(&self, folder: &str) {
        for (name, title, shape) in [
            ("policies", "policies of one pod → µs of a short TCP connection", Shape::Stacked(0)),
            ("peers", "peers of one policy → µs of a short TCP connection", Shape::Peers(0)),
        ] {
            let series: Vec<plot::Series> = Backend::ALL
                .into_iter()
                .map(|backend| {
                    let point =
                        |row: &Row| (f64::from(row.shape.size()), median(&row.samples[0].micros));
                    (backend.name(), self.of(backend, shape).map(point).collect())
                })
                .collect();
            std::fs::write(format!("{folder}/packets-{name}.svg"), plot::log_log(title, &series))
                .unwrap();
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Only tracking connections, × no rules:\n")?;
        writeln!(f, "| by | short TCP | short UDP | ping-pong |\n|---|---|---|---|")?;
        for (tool, [tcp, udp, ping]) in &self.tracked {
            writeln!(f, "| {tool:?} | {tcp} | {udp} | {ping} |")?;
        }
        writeln!(f, "\nBackends, × only tracking connections:\n")?;
        writeln!(f, "| backend | what | how many | load | short TCP | short UDP | ping-pong |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for backend in Backend::ALL {
            for Row { shape, loaded, samples: [tcp, udp, ping], .. } in
                self.rows.iter().filter(|row| row.backend == backend)
            {
                let (name, what, size) = (backend.name(), shape.name(), shape.size());
                writeln!(
                    f,
                    "| {name} | {what} | {size} | {loaded:.0?} | {tcp} | {udp} | {ping} |"
                )?;
            }
        }
        writeln!(f, "\nLargest size × smallest:\n")?;
        writeln!(
            f,
            "| backend | what | short TCP | short UDP | ping-pong |\n|---|---|---|---|---|"
        )?;
        for backend in Backend::ALL {
            for shape in [Shape::Policies(0), Shape::Stacked(0), Shape::Peers(0)] {
                let Some([tcp, udp, ping]) = self.growth(backend, shape) else { continue };
                let (name, what) = (backend.name(), shape.name());
                writeln!(f, "| {name} | {what} | {tcp:.3} | {udp:.3} | {ping:.3} |")?;
            }
        }
        Ok(())
    }
}
