//! Medians, quantiles and their spread.

use std::fmt;
use std::time::Duration;

/// The quantile `share` of `times`, in microseconds.
pub fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() - 1) as f64 * share).round() as usize;
    times[at].as_secs_f64() * 1e6
}

/// A figure of several rounds.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The lowest.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of these figures, of which there is at least one.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_unstable_by(f64::total_cmp);
        Self {
            min: figures[0],
            median: figures[figures.len() / 2],
            max: figures[figures.len() - 1],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(0);
        let text = format!(
            "{:.places$} ({:.places$}–{:.places$})",
            self.median, self.min, self.max
        );
        write!(f, "{text:>0$}", f.width().unwrap_or(0))
    }
}
