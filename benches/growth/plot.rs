//! Draws series of points on logarithmic axes, as SVG.

use std::fmt::Write;

/// Points of one kind: what grew, and the time in microseconds.
pub struct Series {
    /// What grew, with its unit.
    pub name: &'static str,
    /// The points, the smallest first.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 50.0;

/// One drawing beside the other, with a decade a line.
pub fn svg(all: &[Series]) -> String {
    let width = (WIDTH + MARGIN) * all.len() as f64 + MARGIN;
    let height = HEIGHT + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, series) in all.iter().enumerate() {
        draw(&mut svg, series, MARGIN + (WIDTH + MARGIN) * number as f64);
    }
    svg + "</svg>\n"
}

fn draw(svg: &mut String, series: &Series, left: f64) {
    let (xs, ys): (Vec<f64>, Vec<f64>) = series.points.iter().copied().unzip();
    let (x, y) = (Axis::of(&xs), Axis::of(&ys));
    let across = |value: f64| left + x.share(value) * WIDTH;
    let up = |value: f64| MARGIN + (1.0 - y.share(value)) * HEIGHT;
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "{text}");
    };
    let (top, bottom, right) = (MARGIN, MARGIN + HEIGHT, left + WIDTH);
    for decade in x.decades() {
        let at = across(decade);
        line(format!(
            "<path d=\"M{at} {top}V{bottom}\" stroke=\"#ddd\"/>"
        ));
        line(format!(
            "<text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{decade}</text>",
            bottom + 15.0
        ));
    }
    for decade in y.decades() {
        let at = up(decade);
        line(format!(
            "<path d=\"M{left} {at}H{right}\" stroke=\"#ddd\"/>"
        ));
        line(format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{decade}</text>",
            left - 4.0,
            at + 4.0
        ));
    }
    let points: Vec<String> = series
        .points
        .iter()
        .map(|(x, y)| format!("{:.1},{:.1}", across(*x), up(*y)))
        .collect();
    line(format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>",
        points.join(" ")
    ));
    let middle = left + WIDTH / 2.0;
    line(format!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-size=\"13\">µs by {}</text>",
        top - 15.0,
        series.name
    ));
}

/// From a power of ten to another one.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn of(values: &[f64]) -> Self {
        let lowest = values.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = values.iter().copied().fold(0.0, f64::max);
        let from = lowest.log10().floor() as i32;
        Self {
            from,
            to: (highest.log10().ceil() as i32).max(from + 1),
        }
    }

    fn share(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10_f64.powi(power))
    }
}
