//! Properties that hold for any input, tried with inputs from a fixed seed.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::adapter::azure::Query;
use crate::adapter::backend::translate::outcome;
use crate::adapter::files::{FolderPath, Names};
use crate::adapter::fuzzing::{self, pieces};
use crate::adapter::model::identifier::Identifier;
use crate::adapter::model::operation_id::OperationId;
use crate::piston::{ExecuteRequest, ExecuteResponse, Stage, Status};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(20_240_202),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Text with what programs print: any characters, line breaks, and words like the engine's own.
fn printed() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => any::<String>(),
        2 => Just("\n".to_owned()),
        1 => Just("Killed\n".to_owned()),
        1 => Just("/box/submission/main.py".to_owned()),
        1 => Just("🦀é".to_owned()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn ran(stdout: &str, stderr: &str, code: i32) -> ExecuteResponse {
    ExecuteResponse {
        compile: None,
        run: Stage {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            output: format!("{stdout}{stderr}"),
            code: Some(code),
            ..Stage::default()
        },
        language: "python".to_owned(),
        version: "3.12.0".to_owned(),
        kernel: None,
    }
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn what_a_program_prints_comes_out_as_it_is(stdout in printed(), code in 0..=255) {
        let outcome = outcome(&ExecuteRequest::default(), ran(&stdout, "", code), usize::MAX).unwrap();
        prop_assert_eq!(outcome.stdout(), stdout.as_str());
        prop_assert_eq!(outcome.exit_code, code);
    }

    #[test]
    fn no_stack_or_path_of_the_engine_comes_out(
        stderr in "[a-z \n]{0,40}", package in "[a-z]{1,9}", line in 1..99u32, signal in any::<bool>(),
    ) {
        let notice = format!(
            "/piston/packages/{package}/3.12.0/run: line {line}: {} Killed                  python3 \"$@\"\n",
            line * 7
        );
        let mut response = ran("", &format!("{stderr}\n{notice}"), 137);
        if signal {
            response.run.status = Some(Status::RuntimeError);
            response.run.message = Some("/piston/jobs/x has failed".to_owned());
        }
        let outcome = outcome(&ExecuteRequest::default(), response, usize::MAX).unwrap();
        for text in [outcome.stderr(), &outcome.run.output] {
            prop_assert!(!text.contains("/piston/"), "{}", text);
        }
    }

    #[test]
    fn streams_are_cut_between_characters(stdout in printed(), stderr in printed(), max_bytes in 0usize..400) {
        let request = ExecuteRequest::default();
        let whole = outcome(&request, ran(&stdout, &stderr, 0), usize::MAX).unwrap();
        let cut = outcome(&request, ran(&stdout, &stderr, 0), max_bytes).unwrap();
        prop_assert!(whole.stdout().starts_with(cut.stdout()));
        prop_assert!(cut.stdout().len() <= max_bytes);
        // No character less than there is room for.
        let next = whole.stdout()[cut.stdout().len()..].chars().next();
        prop_assert!(next.is_none_or(|next| cut.stdout().len() + next.len_utf8() > max_bytes));
        if stdout.len() <= max_bytes && whole.stderr().len() <= max_bytes {
            prop_assert_eq!(cut.stderr(), whole.stderr());
        }
    }

    #[test]
    fn names_that_are_taken_are_names(text in ".{0,40}", dirty in "[./a\\\\\0%]{0,12}") {
        let names = Names::new("/srv/files");
        for text in [text, dirty] {
            if let Ok(file) = names.file(FolderPath::default(), &text) {
                let name = file.name.as_str();
                prop_assert!(!name.contains(['/', '\0']) && !matches!(name, "" | "." | ".."));
                let path = std::path::Path::new("/srv/files").join(name);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/srv/files")));
            }
            if let Ok(file) = names.nested_file(FolderPath::default(), &text) {
                let whole = match file.folder.names() {
                    [] => file.name.as_str().to_owned(),
                    _ => format!("{}/{}", file.folder, file.name.as_str()),
                };
                prop_assert_eq!(names.nested_file(FolderPath::default(), &whole).ok(), Some(file));
            }
        }
    }

    #[test]
    fn identifiers_and_operation_ids_are_taken_whole_or_not_at_all(text in ".{0,140}", id in "[!-~]{4,128}") {
        if let Some(identifier) = Identifier::parse(&text) {
            prop_assert_eq!(identifier.as_str(), text.as_str());
        }
        prop_assert_eq!(Identifier::parse(&id).is_some(), !id.contains('\\'));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_plain = (1..=128).contains(&text.len()) && text.chars().all(plain);
        prop_assert_eq!(OperationId::given(text.as_bytes()).is_some(), is_plain);
        fuzzing::operation_id(text.as_bytes());
    }

    #[test]
    fn a_query_says_what_was_written_into_it(id in "[!-\\[\\]-~]{4,128}", version in ".{1,20}", other in ".{0,9}") {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("x", &other)
            .append_pair("identifier", &id)
            .append_pair("version", &version)
            .finish();
        let query = Query::parse(&query).unwrap();
        let identifier = query.identifier.unwrap();
        prop_assert_eq!(identifier.as_str(), id);
        prop_assert_eq!(query.version, Some(version));
    }

    #[test]
    fn a_form_is_the_same_however_it_is_cut(
        files in prop::collection::vec(("[a-zé ]{1,12}", prop::collection::vec(prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            Just(b"\r\n--".to_vec()), Just(b"\r\n--bound".to_vec()), Just(b"--boundary--".to_vec()), Just(b"\r".to_vec()),
        ], 0..40)), 0..4),
        step in 1usize..50,
    ) {
        let mut form = b"a preamble\r\n".to_vec();
        let mut wanted = Vec::new();
        for (name, bytes) in files {
            let bytes = bytes.concat();
            prop_assume!(memchr::memmem::find(&bytes, b"\r\n--boundary").is_none());
            form.extend(format!("--boundary\r\nContent-Disposition: form-data; name=file; filename=\"{name}\"\r\n\r\n").bytes());
            form.extend(&bytes);
            form.extend(b"\r\n");
            wanted.push((Some(name), bytes));
        }
        form.extend(b"--boundary--\r\n");
        prop_assert_eq!(pieces(Some(b"boundary"), &form, step), Ok(wanted));
    }

    #[test]
    fn no_bytes_upset_a_parser(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
        for bytes in [bytes.as_slice(), text.as_bytes()] {
            fuzzing::target(bytes);
            fuzzing::execution(bytes);
            fuzzing::operation_id(bytes);
            fuzzing::answer(bytes);
            fuzzing::form(&[b"multipart/form-data; boundary=x\n--x\r\n\r\n", bytes].concat());
        }
    }
}
