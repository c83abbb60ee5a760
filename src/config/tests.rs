use clap::Parser;

use super::*;

fn judge(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let arguments = std::iter::once("session-adapter").chain(arguments.iter().copied());
    let flags = Cli::try_parse_from(arguments).unwrap().serve;
    Settings::judge(&flags, |name| {
        let found = environment.iter().find(|(variable, _)| *variable == name)?;
        Some(found.1.into())
    })
}

#[test]
fn the_command_line_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = judge(&[], &[]).unwrap();
    assert_eq!(settings.listen.to_string(), "127.0.0.1:2000");
    assert_eq!(settings.access, AccessPolicy::default());
    assert_eq!(settings.engine, EngineKind::Embedded);
    assert_eq!(settings.piston.base(), "http://127.0.0.1:2001");
    assert_eq!(settings.run_timeout, Duration::from_secs(60));
    assert_eq!(settings.max_run_timeout, Duration::from_secs(220));
    assert_eq!(
        (settings.max_body, settings.max_upload),
        (16 << 20, 128 << 20)
    );
    assert_eq!(
        (settings.output_limit, settings.memory_limit),
        (1 << 20, 512 << 20)
    );
    assert_eq!((settings.max_jobs, settings.queue), (2 * cores(), 64));
    assert_eq!(settings.jobs.warm, cores());
    assert!(settings.jobs.preload.is_empty());
    assert_eq!(settings.drain_timeout, Duration::from_secs(25));
    assert_eq!(settings.metrics, MetricsPlace::Path);
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_default() {
    let environment = [
        ("RUN_TIMEOUT_SECONDS", "7"),
        ("MAX_QUEUE", "3"),
        ("PORT", "8080"),
    ];
    let settings = judge(&["--run-timeout", "2.5"], &environment).unwrap();
    assert_eq!(settings.run_timeout, Duration::from_millis(2500));
    assert_eq!(settings.queue, 3);
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
    let both = [("PORT", "8080"), ("ADAPTER_LISTEN", "127.0.0.1:9")];
    assert_eq!(judge(&[], &both).unwrap().listen.to_string(), "127.0.0.1:9");
    assert_eq!(judge(&[], &[("PORT", "")]).unwrap().listen.port(), 2000);
}

#[test]
fn modules_are_named_with_commas_between_them() {
    let named = judge(
        &["--preload", "numpy, xml.dom,"],
        &[("WARM_INTERPRETERS", "0")],
    )
    .unwrap();
    assert_eq!(named.jobs.preload, ["numpy", "xml.dom"]);
    assert_eq!(named.jobs.warm, 0);
    for wrong in ["os; x", "a..b", "1x", "a'"] {
        assert!(judge(&["--preload", wrong], &[]).is_err(), "{wrong}");
    }
}

#[test]
fn a_port_changes_the_port_alone() {
    let listen = |given: &str, port: &str| {
        let environment = [("ADAPTER_LISTEN", given), ("PORT", port)];
        judge(&[], &environment).unwrap().listen.to_string()
    };
    for (given, port, address) in [
        ("", "8080", "127.0.0.1:8080"),
        ("0.0.0.0", "", "0.0.0.0:2000"),
        ("0.0.0.0", "8080", "0.0.0.0:8080"),
        ("0.0.0.0:9", "8080", "0.0.0.0:9"),
        ("localhost", "8080", "127.0.0.1:8080"),
        ("localhost:9", "8080", "127.0.0.1:9"),
        ("::1", "8080", "[::1]:8080"),
        ("[::]", "8080", "[::]:8080"),
        ("[::1]:9", "8080", "[::1]:9"),
    ] {
        assert_eq!(listen(given, port), address, "{given} {port}");
    }
    for wrong in ["example.com", "localhosts:1", "1.2.3.4:x", "[::1", ":2000"] {
        let error = judge(&["--listen", wrong], &[]).unwrap_err().to_string();
        assert!(error.contains("ADDRESS:PORT"), "{error}");
    }
}

#[test]
fn hosts_and_origins_are_repeated_flags_or_a_list() {
    let allowed = |settings: Settings| {
        let hosts: Vec<_> = settings
            .access
            .hosts
            .iter()
            .map(ToString::to_string)
            .collect();
        let origins = settings.access.origins.iter().map(ToString::to_string);
        [hosts, origins.collect()].map(|list| list.join(" "))
    };
    let environment = [
        ("ALLOW_HOST", "one.example, Two.example,"),
        ("ALLOW_ORIGIN", "https://a.example"),
    ];
    assert_eq!(
        allowed(judge(&[], &environment).unwrap()),
        ["one.example two.example", "https://a.example"]
    );
    let flags = [
        "--allow-host",
        "x",
        "--allow-host",
        "*",
        "--allow-origin",
        "*",
    ];
    assert_eq!(allowed(judge(&flags, &environment).unwrap()), ["x *", "*"]);
    for wrong in [["--allow-host", "x:80"], ["--allow-origin", "null"]] {
        let error = judge(&wrong, &[]).unwrap_err().to_string();
        assert!(
            error.starts_with(wrong[0]) && error.contains("allowed are"),
            "{error}"
        );
    }
}

#[test]
fn a_port_that_is_not_used_is_not_judged() {
    let settings = judge(&["--listen", "[::1]:9"], &[("PORT", "tcp://10.0.0.1:80")]).unwrap();
    assert_eq!(settings.listen.to_string(), "[::1]:9");
}

#[test]
fn the_adapter_that_is_asked_is_the_one_that_the_environment_configures() {
    let url = |environment: &[(&str, &str)]| {
        let target = Target { url: None };
        let find = |name: &str| {
            let found = environment.iter().find(|(variable, _)| *variable == name)?;
            Some(OsString::from(found.1))
        };
        target.url(find).unwrap()
    };
    assert_eq!(url(&[]), "http://127.0.0.1:2000");
    assert_eq!(url(&[("PORT", "8080")]), "http://127.0.0.1:8080");
    assert_eq!(url(&[("ADAPTER_LISTEN", "[::]:9")]), "http://[::1]:9");
    assert_eq!(
        url(&[("ADAPTER_LISTEN", "10.1.2.3:9")]),
        "http://10.1.2.3:9"
    );
}

#[test]
fn a_table_of_runtimes_is_read_and_must_be_toml() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("runtimes.toml");
    let path = file.to_str().unwrap();
    let judged = || judge(&["--runtimes", path], &[]);
    assert!(judged().unwrap_err().to_string().contains("can be read"));
    std::fs::write(&file, "x = [").unwrap();
    assert!(judged().unwrap_err().to_string().contains("unclosed array"));
    std::fs::write(&file, "x = []").unwrap();
    assert_eq!(judged().unwrap().jobs.runtimes.unwrap(), "x = []");
}

#[test]
fn a_switch_is_a_flag_or_a_variable() {
    let allowed = |arguments: &[&str], value: &str| {
        let judged = judge(arguments, &[("ALLOW_NETWORK", value)]);
        judged.map(|settings| settings.jobs.allow_network)
    };
    assert_eq!(allowed(&[], ""), Ok(false));
    assert_eq!(allowed(&[], "True"), Ok(true));
    assert_eq!(allowed(&["--allow-network"], "0"), Ok(true));
    let error = allowed(&[], "maybe").unwrap_err().to_string();
    assert_eq!(error, "ALLOW_NETWORK is 'maybe': allowed is true or false");
}

#[test]
fn metrics_are_a_path_or_a_listener_or_off() {
    let place = |value: &str| judge(&[], &[("METRICS", value)]).unwrap().metrics;
    assert_eq!(place("ON"), MetricsPlace::Path);
    assert_eq!(place("off"), MetricsPlace::Off);
    assert_eq!(place("[::1]:9464").to_string(), "[::1]:9464");
    let error = judge(&["--metrics", "9464"], &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "--metrics is '9464': allowed is on, off or ADDRESS:PORT, for example 127.0.0.1:9464"
    );
}

#[test]
fn sizes_may_carry_a_unit() {
    let settings = judge(&["--max-body", "2MiB", "--output-limit", "64 KiB"], &[]).unwrap();
    assert_eq!(
        (settings.max_body, settings.output_limit),
        (2 << 20, 64 << 10)
    );
}

#[test]
fn a_default_run_timeout_never_exceeds_a_lower_maximum() {
    let settings = judge(&["--max-run-timeout", "10"], &[]).unwrap();
    assert_eq!(settings.run_timeout, Duration::from_secs(10));
}

#[test]
fn a_wrong_setting_names_itself_its_value_and_what_is_allowed() {
    for (arguments, environment, message) in [
        (
            vec!["--run-timeout", "-1"],
            vec![],
            "--run-timeout is '-1': allowed is a number of seconds from 0.001 to 220",
        ),
        (
            vec![],
            vec![("MAX_JOBS", "many")],
            "MAX_JOBS is 'many': allowed is a whole number from 1 to 1024",
        ),
        (
            vec!["--engine", "docker"],
            vec![],
            "--engine is 'docker': allowed is embedded or piston",
        ),
        (
            vec!["--piston-url", "http://10.0.0.5:2001"],
            vec![],
            "--piston-url is 'http://10.0.0.5:2001': the embedded engine listens on loopback \
             only, for example http://127.0.0.1:2001",
        ),
        (
            vec!["--engine", "piston", "--piston-url", "https://x"],
            vec![],
            "--piston-url is 'https://x': allowed is http://HOST:PORT",
        ),
        (
            vec!["--engine", "piston", "--piston-url", "http://:2001"],
            vec![],
            "--piston-url is 'http://:2001': allowed is http://HOST:PORT",
        ),
        (
            vec!["--engine", "piston", "--piston-url", "http://piston"],
            vec![],
            "--piston-url is 'http://piston': allowed is http://HOST:PORT",
        ),
        (
            vec![],
            vec![("PORT", "70000")],
            "PORT is '70000': allowed is a port from 0 to 65535",
        ),
        (
            vec!["--data-dir", "/nowhere"],
            vec![],
            "--data-dir is '/nowhere': allowed is a directory that exists and can be written",
        ),
        (
            vec!["--output-limit", "1.5MiB"],
            vec![],
            "--output-limit is '1.5MiB': allowed are bytes from 1 to 1073741824, \
             also as KiB, MiB or GiB",
        ),
    ] {
        let error = judge(&arguments, &environment).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn piston_may_be_elsewhere_when_it_is_not_ours() {
    let settings = judge(
        &["--engine", "piston", "--piston-url", "http://piston:2000/"],
        &[],
    )
    .unwrap();
    assert_eq!(settings.piston.base(), "http://piston:2000");
    assert_eq!(settings.piston.loopback(), None);
    let local = judge(&["--piston-url", "http://localhost:0"], &[])
        .unwrap()
        .piston;
    assert_eq!(local.loopback().unwrap().to_string(), "127.0.0.1:0");
    assert_eq!(local.with_port(5).base(), "http://localhost:5");
}
