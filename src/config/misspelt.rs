//! Environment variables that are probably meant for this program but misspelt.

use std::collections::BTreeSet;

/// Names this short are one edit away from too many others.
const SHORT: usize = 5;

/// An environment variable whose name is one edit away from that of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt {
    /// Its name.
    pub variable: String,
    /// The name that was probably meant.
    pub meant: String,
}

/// The names that are not `known` and one edit away from one that is.
pub(super) fn find(
    names: impl IntoIterator<Item = String>,
    known: &BTreeSet<&str>,
) -> Vec<Misspelt> {
    let suspects = names
        .into_iter()
        .filter(|name| name.len() > SHORT && !known.contains(name.as_str()));
    suspects
        .filter_map(|variable| {
            let meant = known.iter().find(|name| is_one_edit(&variable, name))?;
            let meant = (*meant).to_owned();
            Some(Misspelt { variable, meant })
        })
        .collect()
}

/// Whether inserting, deleting or replacing a byte, or swapping two neighbours, makes `a` into `b`.
fn is_one_edit(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([_, rest @ ..], _) if rest == b => true,
        (_, [_, rest @ ..]) if rest == a => true,
        ([_, a @ ..], [_, b @ ..]) if a == b => true,
        ([first, second, a @ ..], [third, fourth, b @ ..]) => {
            first == fourth && second == third && a == b
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_edit_is_suspected_and_nothing_else() {
        let meant = |name: &str| {
            let known = ["ALLOW_HOST", "MAX_JOBS", "METRICS", "PORT"];
            let mut found = find([name.to_owned()], &BTreeSet::from(known));
            found.pop().map(|misspelt| misspelt.meant)
        };
        for (name, setting) in [
            ("MAX_JOB", "MAX_JOBS"),
            ("MAX_JOBSS", "MAX_JOBS"),
            ("MAX-JOBS", "MAX_JOBS"),
            ("MAX_JOSB", "MAX_JOBS"),
            ("AMX_JOBS", "MAX_JOBS"),
            ("ALLOW_HOSTS", "ALLOW_HOST"),
            ("METRIC", "METRICS"),
        ] {
            assert_eq!(meant(name).as_deref(), Some(setting), "{name}");
        }
        for name in [
            "MAX_JOBS",
            "PORTS",
            "POR",
            "PATH",
            "MAX_JO",
            "XMAX_JOBSX",
            "max_jobs",
            "",
        ] {
            assert_eq!(meant(name), None, "{name}");
        }
    }
}
