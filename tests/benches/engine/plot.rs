//! Growth curves as pictures: both axes logarithmic, so that a power is a straight line.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 56.0;
const COLOURS: [&str; 4] = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad"];

/// A name and its points.
pub(crate) type Series = (&'static str, Vec<(f64, f64)>);

pub(crate) fn log_log(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        let (low, high) = points()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0))
    };
    let ((left, right), (bottom, top)) = (range(|point| point.0), range(|point| point.1));
    let x = |value: f64| MARGIN + (value.log10() - left) / (right - left) * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| {
        HEIGHT - MARGIN - (value.log10() - bottom) / (top - bottom) * (HEIGHT - 2.0 * MARGIN)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{title}</text>\n"
    );
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            svg,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
        );
    };
    let decades = |from: f64, to: f64| {
        std::iter::successors(Some(from), move |at| (at + 1.0 <= to).then_some(at + 1.0))
    };
    decades(left, right).for_each(|at| {
        line(x(10_f64.powf(at)), y(10_f64.powf(bottom)), x(10_f64.powf(at)), y(10_f64.powf(top)));
    });
    decades(bottom, top).for_each(|at| {
        line(x(10_f64.powf(left)), y(10_f64.powf(at)), x(10_f64.powf(right)), y(10_f64.powf(at)));
    });
    for at in decades(left, right) {
        let value = 10_f64.powf(at);
        let (x, y) = (x(value), HEIGHT - MARGIN + 16.0);
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{value}</text>");
    }
    for at in decades(bottom, top) {
        let value = 10_f64.powf(at);
        let (x, y) = (MARGIN - 6.0, y(value) + 4.0);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{value}</text>");
    }
    for (number, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS.get(number).unwrap_or(&"#000");
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for point in points {
            let (x, y) = (x(point.0), y(point.1));
            let _ =
                writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        }
        let (x, y) = (WIDTH - MARGIN - 160.0, 44.0 + 16.0 * number as f64);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>");
    }
    svg + "</svg>\n"
}
