//! Takes the engine's own words out of a program's stderr.
//!
//! Real Piston starts each program from a shell script, whose complaint about a killed child ends
//! up in stderr with paths of the server in it (recording `kill_segv_self`), runs it in
//! `/box/submission`, and has a keeper that speaks up at the output limit (`stdout_overflow_runaway`).

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;

use crate::piston::{SIGNALS, Signal};

const SUBMISSION: &str = "/box/submission";
const PACKAGES: &str = "/piston/packages/";

static SUBMISSION_FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(SUBMISSION));
static PACKAGES_FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(PACKAGES));
static KEEPER: LazyLock<Finder<'_>> =
    LazyLock::new(|| Finder::new("Sandbox keeper received fatal signal "));

/// A program's own stderr.
#[derive(Debug, PartialEq, Eq)]
pub struct Cleaned<'a> {
    /// What the program wrote.
    pub text: Cow<'a, str>,
    /// How the engine's shell described the signal that killed the program.
    pub died: Option<&'static str>,
}

/// Separates what the program, which ended with `code`, wrote to stderr from what the engine added.
pub fn clean(text: &str, code: Option<i32>) -> Cleaned<'_> {
    let mut cleaned = without_piston(text);
    if let Some((own, description)) = bare_notice(&cleaned.text, code) {
        cleaned.died = Some(description);
        cleaned.text = Cow::Owned(own.to_owned());
    }
    cleaned
}

/// The same for both streams together, where stderr has told how the program `died`.
pub fn clean_output<'a>(text: &'a str, died: Option<&str>) -> Cow<'a, str> {
    let text = without_piston(text).text;
    let own = died.and_then(|died| text.strip_suffix('\n')?.strip_suffix(died));
    match own {
        Some(own) => Cow::Owned(own.to_owned()),
        None => text,
    }
}

/// What real Piston adds: lines of its shell and of its keeper, and paths of its server.
fn without_piston(text: &str) -> Cleaned<'_> {
    let mut cleaned = Cleaned {
        text: Cow::Borrowed(text),
        died: None,
    };
    if PACKAGES_FINDER.find(text.as_bytes()).is_some() {
        let mut own = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = PACKAGES_FINDER.find(rest.as_bytes()) {
            own.push_str(&rest[..at]);
            rest = &rest[at..];
            match in_package(rest) {
                Some(path) => match death_notice(path) {
                    Some(description) => {
                        cleaned.died = Some(description);
                        rest = after_line(path);
                    }
                    None => rest = path,
                },
                None => {
                    own.push_str(PACKAGES);
                    rest = &rest[PACKAGES.len()..];
                }
            }
        }
        own.push_str(rest);
        cleaned.text = Cow::Owned(own);
    }
    if let Some(at) = KEEPER.find(cleaned.text.as_bytes()) {
        let after = after_line(&cleaned.text[at..]);
        let text = format!("{}{after}", &cleaned.text[..at]);
        cleaned.text = Cow::Owned(text);
    }
    if SUBMISSION_FINDER.find(cleaned.text.as_bytes()).is_some() {
        let relative = cleaned.text.replace("/box/submission/", "");
        cleaned.text = Cow::Owned(relative.replace(SUBMISSION, "."));
    }
    cleaned
}

/// The embedded engine's last line for a program that a signal killed: its description alone.
fn bare_notice(text: &str, code: Option<i32>) -> Option<(&str, &'static str)> {
    let signal = code?.checked_sub(128)?;
    let description = Signal::of_number(signal)?.description;
    let own = text.strip_suffix('\n')?.strip_suffix(description)?;
    (own.is_empty() || own.ends_with('\n')).then_some((own, description))
}

/// What follows `/piston/packages/NAME/VERSION/`.
fn in_package(text: &str) -> Option<&str> {
    let name_and_on = text.strip_prefix(PACKAGES)?;
    let mut parts = name_and_on.splitn(3, '/');
    let (name, version) = (parts.next()?, parts.next()?);
    let plain = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
    let rest = parts.next()?;
    (plain(name) && plain(version)).then_some(rest)
}

/// The signal in `run: line 3:     3 Segmentation fault      python3.11 "$@"`.
fn death_notice(text: &str) -> Option<&'static str> {
    let numbered = ["run: line ", "compile: line "]
        .iter()
        .find_map(|script| text.strip_prefix(script))?;
    let (number, notice) = numbered.split_once(':')?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let described = notice
        .trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .trim_start();
    SIGNALS
        .iter()
        .map(|signal| signal.description)
        .find(|description| described.starts_with(description))
}

fn after_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> (String, Option<&'static str>) {
        let cleaned = clean(text, None);
        (cleaned.text.into_owned(), cleaned.died)
    }

    #[test]
    fn a_programs_own_words_stay_as_they_are() {
        for text in [
            "",
            "err\n",
            "/piston is mine",
            "/piston/packages/",
            "run: line 3: x\n",
        ] {
            assert_eq!(cleaned(text), (text.to_owned(), None));
        }
    }

    #[test]
    fn the_shells_notice_of_a_death_becomes_a_description() {
        let line = "/piston/packages/python/3.11.2/run: line 3:     3 Segmentation fault      python3.11 \"$@\"\n";
        assert_eq!(cleaned(line), (String::new(), Some("Segmentation fault")));
        let glued = format!("no newline{line}");
        assert_eq!(
            cleaned(&glued),
            ("no newline".to_owned(), Some("Segmentation fault"))
        );
        let narrow = "/piston/packages/gcc/12.2.0/run: line 6:     3 Floating point exception./a.out \"$@\"\n";
        assert_eq!(
            cleaned(narrow),
            (String::new(), Some("Floating point exception"))
        );
    }

    #[test]
    fn other_complaints_of_the_shell_lose_only_their_path() {
        let text = "/piston/packages/python/3.11.2/run: line 3: python3.11: command not found\n";
        assert_eq!(
            cleaned(text),
            (
                "run: line 3: python3.11: command not found\n".to_owned(),
                None
            )
        );
    }

    #[test]
    fn the_engines_paths_are_cut_from_a_traceback() {
        let (text, died) = cleaned(
            "  File \"/box/submission/main.py\", line 4, in <module>\n  \
             File \"/piston/packages/python/3.12.0/lib/python3.12/json/decoder.py\", line 355\n\
             cwd /box/submission\n",
        );
        assert_eq!(
            text,
            "  File \"main.py\", line 4, in <module>\n  \
             File \"lib/python3.12/json/decoder.py\", line 355\ncwd .\n"
        );
        assert_eq!(died, None);
    }

    #[test]
    fn a_description_alone_is_the_engines_where_the_exit_code_is_of_that_signal() {
        let cleaned = |text, code| {
            let cleaned = clean(text, Some(code));
            (cleaned.text.into_owned(), cleaned.died)
        };
        let died = Some("Segmentation fault");
        assert_eq!(
            cleaned("x\nSegmentation fault\n", 139),
            ("x\n".to_owned(), died)
        );
        assert_eq!(cleaned("Segmentation fault\n", 139), (String::new(), died));
        for (text, code) in [
            ("Segmentation fault\n", 1),
            ("Segmentation fault\n", 137),
            ("no Segmentation fault\n", 139),
            ("", 139),
        ] {
            assert_eq!(cleaned(text, code), (text.to_owned(), None));
        }
    }

    #[test]
    fn both_streams_together_lose_the_description_wherever_it_follows() {
        assert_eq!(clean_output("xKilled\n", Some("Killed")), "x");
        assert_eq!(clean_output("xKilled\n", None), "xKilled\n");
    }

    #[test]
    fn the_keepers_last_words_are_dropped() {
        let text = "mine\nSandbox keeper received fatal signal 6\n";
        assert_eq!(cleaned(text), ("mine\n".to_owned(), None));
    }
}
