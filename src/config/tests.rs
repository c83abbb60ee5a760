use super::*;

const CLEARED: [(&str, &str); 0] = [];

/// The settings of a command line, with these variables for what is read from the environment
/// directly and all others empty.
fn resolve(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
    match resolve_command(arguments, environment)? {
        Command::Serve(settings) => Ok(*settings),
        other => panic!("{other:?}"),
    }
}

fn resolve_command(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Command, String> {
    let arguments = std::iter::once(&"session-adapter").chain(arguments);
    let resolved = Cli::resolve_in(arguments.map(Into::into).collect(), |name| {
        let found = environment.iter().find(|(variable, _)| *variable == name);
        Some(found.map_or_else(OsString::new, |(_, value)| value.into()))
    });
    resolved.map_err(|error| error.to_string().trim_end().replace("error: ", ""))
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_the_documented_ones() {
    let settings = resolve(&[], &CLEARED).unwrap();
    assert_eq!(settings.address.to_string(), "127.0.0.1:2000");
    assert_eq!(settings.access(), AccessPolicy::default());
    assert_eq!(settings.backend.engine, EngineKind::Embedded);
    assert_eq!(settings.run_timeout, Duration::from_secs(60));
    assert_eq!(settings.max_upload, 128 << 20);
    assert_eq!(settings.metrics, MetricsPlace::Path);
    let EngineSettings { programs, jobs, .. } = &settings.common;
    assert_eq!(programs.piston_url.base(), "http://127.0.0.1:2001");
    assert_eq!(programs.memory_limit, 512 << 20);
    assert_eq!(jobs.warm, cores());
    assert!(jobs.preload().is_empty());
    let common = &settings.common;
    assert_eq!(common.max_run_timeout, Duration::from_secs(220));
    assert_eq!((common.max_body, common.output_limit), (16 << 20, 1 << 20));
    assert_eq!((common.max_jobs, common.queue), (2 * cores(), 64));
    assert_eq!(common.drain_timeout, Duration::from_secs(25));
    let cores = u32::try_from(cores()).unwrap();
    assert_eq!(common.cpu_limit(), Duration::from_secs(220) * cores);
}

#[test]
fn each_command_has_the_settings_that_it_uses() {
    let command = Cli::command();
    let flags = |name: &str| {
        let command = command.find_subcommand(name).unwrap();
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let flags = shown.filter_map(Arg::get_long);
        flags.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(flags("healthcheck"), ["url"]);
    assert_eq!(flags("replay"), ["url"]);
    let (serve, engine, runtimes) = (flags("serve"), flags("engine"), flags("runtimes"));
    assert!(engine.iter().all(|flag| serve.contains(flag)));
    assert!(runtimes.iter().all(|flag| serve.contains(flag)));
    for flag in ["listen", "engine", "metrics", "run-timeout", "allow-origin"] {
        assert!(!engine.contains(&flag.to_owned()), "{flag}");
    }
    for flag in ["listen", "data-dir", "queue", "preload"] {
        assert!(!runtimes.contains(&flag.to_owned()), "{flag}");
    }
    let top: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
    assert_eq!(top, serve);
}

#[test]
fn modules_are_named_with_commas_between_them_or_by_repeated_flags() {
    let named = [
        "--preload",
        "numpy, xml.dom,",
        "--preload",
        "os",
        "--warm",
        "0",
    ];
    let jobs = resolve(&named, &CLEARED).unwrap().common.jobs;
    assert_eq!(jobs.preload(), ["numpy", "xml.dom", "os"]);
    assert_eq!(jobs.warm, 0);
    for wrong in ["os; x", "a..b", "1x", "a'"] {
        assert!(resolve(&["--preload", wrong], &CLEARED).is_err(), "{wrong}");
    }
}

#[test]
fn a_port_changes_the_port_alone() {
    for (given, port, address) in [
        ("127.0.0.1", "8080", "127.0.0.1:8080"),
        ("0.0.0.0", "", "0.0.0.0:2000"),
        ("0.0.0.0", "8080", "0.0.0.0:8080"),
        ("0.0.0.0:9", "8080", "0.0.0.0:9"),
        ("localhost", "", "127.0.0.1:2000"),
        ("localhost", "8080", "127.0.0.1:8080"),
        ("localhost:9", "8080", "127.0.0.1:9"),
        ("::1", "8080", "[::1]:8080"),
        ("[::]", "8080", "[::]:8080"),
        ("[::1]:9", "tcp://10.0.0.1:80", "[::1]:9"),
    ] {
        let settings = resolve(&["--listen", given], &[("PORT", port)]).unwrap();
        assert_eq!(settings.address.to_string(), address, "{given} {port}");
    }
    for wrong in ["example.com", "localhosts:1", "1.2.3.4:x", "[::1", ":2000"] {
        let error = resolve(&["--listen", wrong], &CLEARED).unwrap_err();
        assert!(error.contains("other names are not resolved"), "{error}");
    }
}

#[test]
fn hosts_and_origins_are_repeated_flags_or_a_list() {
    let flags = [
        ["--allow-host", "x"],
        ["--allow-host", "one.example, Two.example,"],
        ["--allow-host", "*"],
        ["--allow-origin", "https://a.example"],
    ];
    let access = resolve(&flags.concat(), &CLEARED).unwrap().access();
    let hosts: Vec<_> = access.hosts.iter().map(ToString::to_string).collect();
    let origins: Vec<_> = access.origins.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["x", "one.example", "two.example", "*"]);
    assert_eq!(origins, ["https://a.example"]);
}

#[test]
fn the_adapter_that_is_asked_is_the_one_that_the_environment_configures() {
    let url = |environment: &[(&str, &str)]| {
        let find = |name: &str| {
            let found = environment.iter().find(|(variable, _)| *variable == name)?;
            Some(OsString::from(found.1))
        };
        configured_adapter(find).map_err(|error| error.to_string())
    };
    for (environment, expected) in [
        (vec![], "http://127.0.0.1:2000"),
        (
            vec![("PORT", ""), ("ADAPTER_LISTEN", "")],
            "http://127.0.0.1:2000",
        ),
        (vec![("PORT", "8080")], "http://127.0.0.1:8080"),
        (vec![("ADAPTER_LISTEN", "[::]:9")], "http://[::1]:9"),
        (
            vec![("ADAPTER_LISTEN", "localhost")],
            "http://127.0.0.1:2000",
        ),
        (vec![("ADAPTER_LISTEN", "10.1.2.3:9")], "http://10.1.2.3:9"),
    ] {
        assert_eq!(url(&environment).unwrap(), expected);
    }
    let error = url(&[("ADAPTER_LISTEN", "there")]).unwrap_err();
    assert!(error.contains("invalid value 'there' for ADAPTER_LISTEN: expected "));
}

#[test]
fn a_table_of_runtimes_is_read_and_must_be_toml() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("runtimes.toml");
    let path = file.to_str().unwrap();
    let runtimes = || {
        let settings = resolve(&["--runtimes", path], &CLEARED)?;
        Ok::<_, String>(settings.common.programs.sandbox.runtimes.unwrap())
    };
    assert!(runtimes().unwrap_err().contains("can be read"));
    std::fs::write(&file, "x = [").unwrap();
    assert!(runtimes().unwrap_err().contains("unclosed array"));
    std::fs::write(&file, "x = []").unwrap();
    assert_eq!(runtimes().unwrap(), "x = []");
}

#[test]
fn metrics_are_a_path_or_a_listener_or_off() {
    let metrics = |value: &str| resolve(&["--metrics", value], &CLEARED).unwrap().metrics;
    assert_eq!(metrics("ON"), MetricsPlace::Path);
    assert_eq!(metrics("off"), MetricsPlace::Off);
    assert_eq!(metrics("[::1]:9464").to_string(), "[::1]:9464");
    assert_eq!(metrics("localhost:9464").to_string(), "127.0.0.1:9464");
}

#[test]
fn sizes_may_carry_a_unit() {
    let sizes = ["--max-body", "2MiB", "--output-limit", " 64 KiB "];
    let common = resolve(&sizes, &CLEARED).unwrap().common;
    assert_eq!((common.max_body, common.output_limit), (2 << 20, 64 << 10));
}

#[test]
fn a_default_run_timeout_never_exceeds_a_lower_maximum() {
    let settings = resolve(&["--max-run-timeout", "10"], &CLEARED).unwrap();
    assert_eq!(settings.run_timeout, Duration::from_secs(10));
}

#[test]
fn a_wrong_setting_names_itself_its_value_and_what_is_expected() {
    for (arguments, message) in [
        (
            &["--run-timeout", "-1"][..],
            "invalid value '-1' for --run-timeout: expected a number of seconds from 0.001 to 86400",
        ),
        (
            &["--max-run-timeout", "30", "--run-timeout", "60"],
            "invalid value '60' for --run-timeout: expected at most 30, the value of \
             --max-run-timeout",
        ),
        (
            &["engine", "--max-jobs", "many"],
            "invalid value 'many' for --max-jobs: expected a whole number from 1 to 1024",
        ),
        (
            &["--engine", "docker"],
            "invalid value 'docker' for --engine: expected embedded or piston",
        ),
        (
            &["--piston-url", "http://10.0.0.5:2001"],
            "invalid value 'http://10.0.0.5:2001' for --piston-url: expected a loopback address, \
             on which the embedded engine listens, such as http://127.0.0.1:2001",
        ),
        (
            &[
                "runtimes",
                "--engine",
                "piston",
                "--piston-url",
                "https://x",
            ],
            "invalid value 'https://x' for --piston-url: expected http://HOST:PORT",
        ),
        (
            &["--engine", "piston", "--piston-url", "http://:2001"],
            "invalid value 'http://:2001' for --piston-url: expected http://HOST:PORT",
        ),
        (
            &["--engine", "piston", "--piston-url", "http://piston"],
            "invalid value 'http://piston' for --piston-url: expected http://HOST:PORT",
        ),
        (
            &["--data-dir", "/nowhere"],
            "invalid value '/nowhere' for --data-dir: expected a directory that exists and can be \
             written",
        ),
        (
            &["--output-limit", "1.5MiB"],
            "invalid value '1.5MiB' for --output-limit: expected bytes from 1 to 1073741824, also \
             as KiB, MiB or GiB",
        ),
        (
            &["--metrics", "9464"],
            "invalid value '9464' for --metrics: expected on, off or ADDRESS:PORT, where ADDRESS \
             is an IP address or localhost, such as 127.0.0.1:9464",
        ),
        (
            &["--allow-host", "x:80"],
            "invalid value 'x:80' for --allow-host: expected names of hosts without a port, such \
             as sessions.example, or *",
        ),
        (
            &["--allow-origin", "null"],
            "invalid value 'null' for --allow-origin: expected origins without a path or a slash \
             at the end, such as https://app.example or http://localhost:3000, or *",
        ),
        (
            &["healthcheck", "--url", "127.0.0.1:2000"],
            "invalid value '127.0.0.1:2000' for --url: expected http://HOST:PORT",
        ),
    ] {
        let error = resolve_command(arguments, &CLEARED).unwrap_err();
        assert_eq!(error, message);
    }
    let error = resolve(&[], &[("PORT", "70000")]).unwrap_err();
    assert_eq!(
        error,
        "invalid value '70000' for PORT: expected a port from 0 to 65535"
    );
}

#[test]
fn piston_may_be_elsewhere_when_it_is_not_ours() {
    let url = |arguments: &[&str]| {
        let settings = resolve(arguments, &CLEARED).unwrap();
        settings.common.programs.piston_url
    };
    let remote = url(&["--engine", "piston", "--piston-url", "http://piston:2000/"]);
    assert_eq!(remote.base(), "http://piston:2000");
    assert_eq!(remote.loopback(), None);
    let local = url(&["--piston-url", "http://localhost:0"]);
    assert_eq!(local.loopback().unwrap().to_string(), "127.0.0.1:0");
    assert_eq!(local.with_port(5).base(), "http://localhost:5");
}
