//! What became of a replay.

use std::fmt;

use super::matching::Difference;

/// What became of one fixture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The response was the expected one.
    Passed,
    /// The response differed from the recording, first in this place.
    Failed(Difference),
    /// It was not replayed, for this reason.
    Skipped(String),
}

/// One fixture's line in a [`ReplayReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The fixture's file name without its extension.
    pub name: String,
    /// What became of it.
    pub outcome: ReplayOutcome,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            ReplayOutcome::Passed => write!(f, "ok      {}", self.name),
            ReplayOutcome::Failed(difference) => write!(f, "FAILED  {}: {difference}", self.name),
            ReplayOutcome::Skipped(reason) => write!(f, "skipped {}: {reason}", self.name),
        }
    }
}

/// What became of each fixture of a directory.
///
/// Shown, it is one line a fixture and a closing line with the three counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// The fixtures in the order in which they were replayed.
    pub lines: Vec<Line>,
}

impl ReplayReport {
    /// How many answers were the expected ones.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.count(|outcome| matches!(outcome, ReplayOutcome::Passed))
    }

    /// How many answers differed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, ReplayOutcome::Failed(_)))
    }

    /// How many fixtures were not replayed.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.count(|outcome| matches!(outcome, ReplayOutcome::Skipped(_)))
    }

    /// Whether no response differed.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failed() == 0
    }

    /// The closing line: `N passed, N failed, N skipped`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed(),
            self.failed(),
            self.skipped()
        )
    }

    fn count(&self, is: impl Fn(&ReplayOutcome) -> bool) -> usize {
        self.lines.iter().filter(|line| is(&line.outcome)).count()
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        f.write_str(&self.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_line_a_fixture_and_the_counts() {
        let line = |name: &str, outcome| Line {
            name: name.to_owned(),
            outcome,
        };
        let report = ReplayReport {
            lines: vec![
                line("a", ReplayOutcome::Passed),
                line(
                    "b",
                    ReplayOutcome::Failed(Difference {
                        path: "$.stdout".to_owned(),
                        expected: "\"x\"".to_owned(),
                        actual: "\"y\"".to_owned(),
                    }),
                ),
                line("c", ReplayOutcome::Skipped("no lua here".to_owned())),
            ],
        };
        assert!(!report.is_success());
        assert_eq!(
            report.to_string(),
            "ok      a\n\
             FAILED  b: $.stdout: expected \"x\", got \"y\"\n\
             skipped c: no lua here\n\
             1 passed, 1 failed, 1 skipped"
        );
    }
}
