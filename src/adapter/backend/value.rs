//! The value of a Python program's last expression, which `python3 main.py` would throw away.
//!
//! A runner goes before the program as the file that is run. It tells the value on the program's
//! own standard error, in pieces, each between markers that are new for each execution. A program
//! that finds out the marker can forge its own value and nothing else.
//!
//! The runner is in three parts, so that a program which has no value pays for the first alone:
//! `runner.py` runs the program, `report_result.py` makes JSON and reports exceptions, `display.py` makes text and
//! images.

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::piston::{ExecuteRequest, File};

const RUNNER: &str = include_str!("runner.py");
const TELL: &str = include_str!("report_result.py");
const SHOW: &str = include_str!("display.py");
const RUNNER_FILE: &str = "session_runner.py";

/// What a program forges is no deeper either: many readers of JSON give up beyond it.
const DEEPEST: usize = 64;
/// So much of a marker is no coincidence: its name and four random digits.
const LEAST_BEGINNING: usize = 12;

/// How a value is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueOptions {
    /// The longest value in bytes of JSON. On standard error it takes 25 bytes more, and 50 for
    /// each 1000 characters begun.
    pub most: usize,
    /// Whether a bool, an int, a float and a str are told as the text that Jupyter shows, and
    /// `None` as `null`: Azure's `returnJupyterFormatExecutionResult`.
    pub jupyter: bool,
}

/// What stands before and behind a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker(String);

/// What [`Marker::take_from`] found.
#[derive(Debug, Default)]
pub struct Taken {
    /// The value as JSON.
    pub value: Option<Box<RawValue>>,
    /// Whether a value was announced and did not come to its end.
    pub is_cut: bool,
}

impl Marker {
    pub fn random() -> Self {
        let random = Uuid::new_v4().simple().to_string();
        Self(format!("session-{}", &random[..16]))
    }

    /// Puts the runner before the program, as the file that is run.
    pub fn put_before(&self, request: &mut ExecuteRequest, options: ValueOptions) {
        let main = request.files.first().map_or("", |main| &main.name);
        let ValueOptions { most, jupyter } = options;
        let jupyter = if jupyter { "True" } else { "False" };
        let marker = &self.0;
        let content = format!(
            "{RUNNER}\n\n\
             type(run)(run.__code__, {{\"__builtins__\": dict(vars(__builtins__))}})(\n\
             globals(), \"{main}\", b\"{marker}\",\n\
             {{\"most\": {most}, \"jupyter\": {jupyter}, \"show\": r'''{SHOW}'''}},\n\
             [r'''{TELL}'''],\n)\n"
        );
        request.files.insert(0, File::text(RUNNER_FILE, content));
    }

    /// Takes the value, with its markers, out of `text`.
    ///
    /// Behind a marker stands `?` where a value is about to be told, `<` where a piece of it
    /// begins, and `>` where it ends.
    pub fn take_from(&self, text: &mut String) -> Taken {
        if !text.contains(&self.0) {
            return Taken {
                is_cut: self.cut_tail(text, LEAST_BEGINNING),
                value: None,
            };
        }
        let mut kept = String::with_capacity(text.len());
        let mut json = String::new();
        let mut rest = text.as_str();
        while let Some((before, behind)) = rest.split_once(&self.0) {
            kept.push_str(before);
            rest = behind.strip_prefix(['?', '>']).unwrap_or(behind);
            if let Some(piece) = behind.strip_prefix('<') {
                let (piece, behind) = self.piece(piece);
                json.push_str(piece);
                rest = behind;
            }
        }
        kept.push_str(rest);
        self.cut_tail(&mut kept, 1);
        *text = kept;
        let value: Option<Box<RawValue>> = serde_json::from_str(&json).ok();
        let value = value.filter(|value| depth(value.get()) <= DEEPEST);
        Taken {
            is_cut: value.is_none(),
            value,
        }
    }

    /// A piece, and what follows its end. One that has no end is what there was room for.
    fn piece<'a>(&self, behind_opening: &'a str) -> (&'a str, &'a str) {
        let (piece, behind) = behind_opening
            .split_once(&self.0)
            .unwrap_or((behind_opening, ""));
        (piece, behind.strip_prefix(['?', '>']).unwrap_or(behind))
    }

    /// Takes off the beginning of a marker, of `least` characters, for whose end there was no room.
    fn cut_tail(&self, text: &mut String, least: usize) -> bool {
        let most = self.0.len().min(text.len());
        let beginning = (least..=most)
            .rev()
            .find(|length| text.ends_with(&self.0[..*length]));
        if let Some(length) = beginning {
            text.truncate(text.len() - length);
        }
        beginning.is_some()
    }
}

/// How deep arrays and objects lie in each other in valid JSON.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(marker: &Marker, pieces: &[&str]) -> String {
        let pieces = pieces
            .iter()
            .map(|piece| format!("{0}<{piece}{0}>", marker.0));
        format!("{}?{}", marker.0, pieces.collect::<String>())
    }

    #[test]
    fn what_there_was_no_room_for_leaves_nothing_behind() {
        let marker = Marker::random();
        let whole = told(&marker, &["[1, 2, 3]"]);
        let (opening, _) = whole.split_once("[1, 2, 3]").unwrap();
        for length in LEAST_BEGINNING..whole.len() {
            let mut text = format!("own{}", &whole[..length]);
            let taken = marker.take_from(&mut text);
            assert_eq!(text, "own", "{length}");
            assert!(taken.is_cut || length >= opening.len() + 9, "{length}");
        }
        let mut own = "session-".to_owned();
        assert!(!marker.take_from(&mut own).is_cut);
        assert_eq!(own, "session-");
    }

    #[test]
    fn a_forged_value_is_no_deeper_than_a_told_one() {
        let marker = Marker::random();
        for (depth, is_taken) in [(64, true), (65, false), (100_000, false)] {
            let json = "[".repeat(depth) + &"]".repeat(depth);
            let mut text = told(&marker, &[&json]);
            assert_eq!(marker.take_from(&mut text).value.is_some(), is_taken);
        }
        assert_eq!(super::depth(r#"["[[[\"[",{"a]":[]}]"#), 3);
    }

    #[test]
    fn a_value_is_taken_out_whole_wherever_it_stands() {
        let marker = Marker::random();
        for (pieces, json) in [
            (&["2"][..], "2"),
            (&["\"é\""], "\"é\""),
            (&["[1,{\"a\"", ":null}]"], "[1,{\"a\":null}]"),
            (
                &["123456789012345678901234567890"],
                "123456789012345678901234567890",
            ),
        ] {
            let mut text = format!("before{}after", told(&marker, pieces));
            let taken = marker.take_from(&mut text);
            assert_eq!(taken.value.unwrap().get(), json);
            assert!(!taken.is_cut);
            assert_eq!(text, "beforeafter");
        }
    }

    #[test]
    fn what_others_write_between_the_pieces_stays() {
        let marker = Marker::random();
        let value = told(&marker, &["[1,", "2]"]);
        let mut text = value.replacen('>', ">a thread", 1);
        assert_eq!(marker.take_from(&mut text).value.unwrap().get(), "[1,2]");
        assert_eq!(text, "a thread");
    }

    #[test]
    fn what_is_no_value_is_left_or_dropped() {
        let marker = Marker::random();
        for text in ["", "session-0<2session-0>", "session-"] {
            let mut left = text.to_owned();
            let taken = marker.take_from(&mut left);
            assert!(taken.value.is_none() && !taken.is_cut);
            assert_eq!(left, text);
        }
        for (forged, kept) in [
            (told(&marker, &["no json"]), ""),
            (told(&marker, &["1", "2,"]), ""),
            (marker.0.clone(), ""),
            (format!("a{0}é{0}", marker.0), "aé"),
            (format!("a{}<[1, 2", marker.0), "a"),
            (format!("a{0}<[1, 2{0}?", marker.0), "a"),
        ] {
            let mut text = forged;
            let taken = marker.take_from(&mut text);
            assert!(taken.value.is_none() && taken.is_cut);
            assert_eq!(text, kept);
        }
    }

    #[test]
    fn the_parts_of_the_runner_are_what_a_python_string_can_hold() {
        for part in [TELL, SHOW] {
            assert!(!part.contains("'''") && part.ends_with('\n'));
        }
    }

    struct Ran {
        stdout: String,
        stderr: String,
        code: Option<i32>,
        taken: Taken,
    }

    /// Runs a program behind the runner, started in `folder`; the files lie in another one.
    fn run_in(folder: &std::path::Path, code: &str, options: ValueOptions) -> Ran {
        let job = tempfile::tempdir().unwrap();
        let mut request = ExecuteRequest {
            files: vec![File::text("main.py", code)],
            ..ExecuteRequest::default()
        };
        let marker = Marker::random();
        marker.put_before(&mut request, options);
        for file in &request.files {
            std::fs::write(job.path().join(&file.name), &file.content).unwrap();
        }
        let output = std::process::Command::new("python3")
            .arg(job.path().join(&request.files[0].name))
            .current_dir(folder)
            .output()
            .unwrap();
        let mut stderr = String::from_utf8(output.stderr).unwrap();
        Ran {
            stdout: String::from_utf8(output.stdout).unwrap(),
            taken: marker.take_from(&mut stderr),
            stderr,
            code: output.status.code(),
        }
    }

    fn run(code: &str, most: usize, jupyter: bool) -> Ran {
        let folder = tempfile::tempdir().unwrap();
        run_in(folder.path(), code, ValueOptions { most, jupyter })
    }

    fn json(ran: &Ran) -> &str {
        ran.taken.value.as_ref().map_or("", |value| value.get())
    }

    #[test]
    fn jupyters_form_has_primitives_as_text_and_none_as_null() {
        for (code, told) in [
            ("a = float('nan');a", r#""nan""#),
            ("a = None;a", "null"),
            ("a = \"nan\";a", r#""'nan'""#),
            ("1 + 1", r#""2""#),
            ("True", r#""True""#),
            ("0.1", r#""0.1""#),
            ("[1, 'a']", r#"[1, "a"]"#),
            ("{2, 1}", r#""{1, 2}""#),
            ("x = 1", ""),
            ("print(1)", "null"),
        ] {
            let ran = run(code, 1000, true);
            assert_eq!((json(&ran), ran.stderr.as_str()), (told, ""), "{code}");
        }
    }

    #[test]
    fn careless_files_where_the_program_starts_are_its_own_modules_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "ast", "base64", "binascii", "builtins", "colorsys", "inspect", "io", "json", "os",
            "random", "re", "sys", "warnings",
        ] {
            let content = format!("print('{name} is not what it was')\n");
            std::fs::write(folder.path().join(format!("{name}.py")), content).unwrap();
        }
        std::fs::write(folder.path().join("helper.py"), "answer = 42\n").unwrap();
        let options = ValueOptions {
            most: 1000,
            jupyter: false,
        };
        let code = "def f(x, y=1):\n    pass\n\n\nf";
        let ran = run_in(folder.path(), code, options);
        assert_eq!(json(&ran), r#""<function __main__.f(x, y=1)>""#);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
        let ran = run_in(
            folder.path(),
            "import helper, colorsys\nhelper.answer",
            options,
        );
        assert_eq!(json(&ran), "42");
        assert_eq!(ran.stdout, "colorsys is not what it was\n");
    }

    #[test]
    fn a_value_is_never_longer_than_it_may_be() {
        for code in [
            "'x' * 100_000",
            "'é\\n' * 100_000",
            "'\\x00' * 100_000",
            "list(range(100_000))",
            "{number: {number} for number in range(900)}",
            "b'\\xff' * 100_000",
            "[[{1}] * 900] * 900",
        ] {
            for most in [200, 5000] {
                let ran = run(code, most, false);
                let told = json(&ran);
                assert!(
                    told.len() <= most && told.ends_with("…\""),
                    "{code}: {told}"
                );
                assert!(told.len() > most / 2, "{code}: {told}");
            }
        }
        let ran = run("'é' * 490", 1000, false);
        assert_eq!(json(&ran).chars().count(), 492);
    }

    #[test]
    fn a_program_can_neither_find_the_marker_outside_itself_nor_spoil_the_answer() {
        let found = "import os\nseen = open('/proc/self/cmdline').read() + str(os.environ)\n\
                     ('session-' + 'value' in seen, 'b\"session-' in seen, os.path.exists(__file__))";
        assert_eq!(json(&run(found, 1000, false)), "[false, false, true]");
        for (code, told, stderr, exit_code) in [
            ("import os\n1\nos._exit(0)", "", "", 0),
            (
                "import os\nos.closerange(0, 200)\nopens = [os.open('/dev/null', 1) for _ in range(150)]\n1",
                "",
                "",
                0,
            ),
            ("import os\nos.fork()\n1", "1", "", 0),
            (
                "import sys\nsys.stderr.write('session-0<2session-0>')\n1",
                "1",
                "session-0<2session-0>",
                0,
            ),
            (
                "class A:\n    def __repr__(self): import os; os._exit(3)\nA()",
                "",
                "",
                3,
            ),
            (
                "class A:\n    def __repr__(self): raise SystemExit(3)\nA()",
                "",
                "",
                0,
            ),
            (
                "class A:\n    def __repr__(self): return 'A' * 10\nA()",
                "\"AAAAAAAAAA\"",
                "",
                0,
            ),
            ("x = []\nfor _ in range(100_000): x = [x]\nx", "", "", 0),
        ] {
            let ran = run(code, 1000, false);
            assert_eq!(
                (json(&ran), ran.stderr.as_str(), ran.code),
                (told, stderr, Some(exit_code)),
                "{code}"
            );
        }
    }
}
