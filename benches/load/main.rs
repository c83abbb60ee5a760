//! The adapter against nginx and a Node script, as proxies to the same stand-in:
//! `cargo bench --bench load`.
//!
//! All are driven by the same clients, in turns within one run, so that a noisy machine disturbs
//! all alike. Figures are medians over the rounds, with the lowest and the highest.
//! `LOAD_ROUNDS` sets how many there are; `LOAD_OTHER` names another adapter to compare with.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../wire/mod.rs"]
mod wire;

mod rivals;

use std::process::Command;
use std::time::Duration;

use rivals::{Recipe, Rival, piston};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use wire::Wire;
use wire::stats::{Spread, quantile};

/// Connections, and requests a round.
const LOADS: [(usize, usize); 3] = [(1, 500), (8, 3000), (64, 4000)];
const STARTS: usize = 15;

fn main() {
    // `cargo test --benches` only wants to know that this builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let rounds = std::env::var("LOAD_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let own = env!("CARGO_BIN_EXE_session-adapter");
    let mut recipes = vec![
        Recipe::nginx(scratch.path()),
        Recipe::adapter("adapter", own, "piston", scratch.path()),
        Recipe::node(),
    ];
    if let Ok(other) = std::env::var("LOAD_OTHER") {
        recipes.push(Recipe::adapter("other", &other, "piston", scratch.path()));
    }
    let mut wire = Wire::new("42\n");
    machine();

    let embedded = Recipe::adapter("adapter, embedded", own, "embedded", scratch.path());
    start_up(&mut wire, recipes.iter().chain([&embedded]));

    let mut ways = vec![Rival {
        name: "direct".to_owned(),
        addr: wire.piston,
        request: piston(),
        process: None,
    }];
    ways.extend(recipes.iter().map(|recipe| recipe.start(wire.piston).0));
    wire.serve(Duration::from_secs(2));
    let idle = resident(&ways);

    let every_core = sched_getaffinity(None).unwrap();
    let mut one_core = CpuSet::new();
    one_core.set(first_of(&every_core));
    keep_to(&ways, &one_core);
    let mut pinned = Figures::new(&ways);
    let mut free = Figures::new(&ways);
    for round in 0..=rounds {
        keep_to(&ways, &one_core);
        pinned.round(&mut wire, &ways, &LOADS[..1], round);
        keep_to(&ways, &every_core);
        free.round(&mut wire, &ways, &LOADS, round);
    }
    let after = resident(&ways);

    println!("\n{rounds} rounds: median (lowest–highest); the last column compares with nginx");
    pinned.print("1 connection, all on one core", 0);
    free.print("1 connection, on every core", 0);
    free.print("8 connections", 1);
    free.print("64 connections", 2);
    println!(
        "\nresident memory in MB     {:>10}{:>12}",
        "idle", "after load"
    );
    for (way, (idle, after)) in ways.iter().zip(idle.iter().zip(after)).skip(1) {
        println!("  {:<24}{idle:>10.1}{after:>12.1}", way.name);
    }
    println!("\n{}", load_of_the_machine());
}

fn machine() {
    let of = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let output = output.unwrap_or_else(|_| panic!("{program} is needed"));
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{cores} cores{}; Linux {}",
        model.unwrap_or_default(),
        of("uname", "-r")
    );
    println!(
        "{}; node {}; {}",
        of("nginx", "-v"),
        of("node", "--version"),
        of("rustc", "--version")
    );
    println!("{}", load_of_the_machine());
}

fn load_of_the_machine() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load of the machine: {}", load.trim())
}

fn first_of(cores: &CpuSet) -> usize {
    (0..CpuSet::MAX_CPU)
        .find(|core| cores.is_set(*core))
        .unwrap_or(0)
}

fn keep_to(ways: &[Rival], cores: &CpuSet) {
    sched_setaffinity(None, cores).unwrap();
    for process in ways.iter().filter_map(|way| way.process.as_ref()) {
        process.keep_to(cores);
    }
}

fn resident(ways: &[Rival]) -> Vec<f64> {
    let of = |way: &Rival| {
        way.process
            .as_ref()
            .map_or(0.0, |process| process.resident())
    };
    ways.iter().map(of).collect()
}

fn start_up<'a>(wire: &mut Wire, recipes: impl Iterator<Item = &'a Recipe> + Clone) {
    let mut times: Vec<(&str, Vec<f64>)> = recipes.clone().map(|r| (&*r.name, vec![])).collect();
    for _ in 0..STARTS {
        for (recipe, (_, times)) in recipes.clone().zip(&mut times) {
            let (rival, took) = recipe.start(wire.piston);
            times.push(took.as_secs_f64() * 1e3);
            wire.serve(Duration::from_millis(20));
            drop(rival);
        }
    }
    println!("\nstart to first 200 of /health in ms, {STARTS} starts");
    for (name, times) in times {
        println!("  {name:<24}{:>20.1}", Spread::of(times));
    }
}

/// What the rounds have measured, by way and load.
struct Figures {
    ways: Vec<Way>,
}

struct Way {
    name: String,
    loads: Vec<Vec<Round>>,
}

struct Round {
    p50: f64,
    p99: f64,
    rate: f64,
    /// Microseconds of CPU time a request.
    cpu: f64,
}

impl Figures {
    fn new(ways: &[Rival]) -> Self {
        let loads = || LOADS.iter().map(|_| Vec::new()).collect();
        let way = |way: &Rival| Way {
            name: way.name.clone(),
            loads: loads(),
        };
        Self {
            ways: ways.iter().map(way).collect(),
        }
    }

    /// Drives every way with each load. The first round warms up, and who goes first changes.
    fn round(&mut self, wire: &mut Wire, ways: &[Rival], loads: &[(usize, usize)], round: usize) {
        for (load, (connections, requests)) in loads.iter().enumerate() {
            for turn in 0..ways.len() {
                let at = (turn + round) % ways.len();
                let way = &ways[at];
                let cpu = || way.process.as_ref().map_or(0.0, |process| process.cpu());
                let before = cpu();
                let mut drive = wire.drive(way.addr, &way.request, *connections, *requests);
                assert_eq!(drive.refused, 0, "{} refused", way.name);
                if std::env::var_os("LOAD_TRACE").is_some() {
                    eprintln!("{round} {connections} {} {:?}", way.name, drive.elapsed);
                }
                if round > 0 {
                    self.ways[at].loads[load].push(Round {
                        cpu: (cpu() - before) / *requests as f64,
                        rate: drive.rate(),
                        p50: quantile(&mut drive.times, 0.5),
                        p99: quantile(&mut drive.times, 0.99),
                    });
                }
            }
        }
    }

    /// A way's figures less those of the direct way of the same round.
    fn added(&self, way: usize, load: usize, figure: fn(&Round) -> f64) -> Spread {
        let direct = self.ways[0].loads[load].iter();
        let through = self.ways[way].loads[load].iter();
        Spread::of(
            through
                .zip(direct)
                .map(|(through, direct)| figure(through) - figure(direct)),
        )
    }

    /// A way's figures as a ratio to nginx's of the same round.
    fn to_nginx(&self, way: usize, load: usize, figure: impl Fn(&Round, &Round) -> f64) -> Spread {
        let rounds = |way: usize| {
            self.ways[way].loads[load]
                .iter()
                .zip(&self.ways[0].loads[load])
        };
        let pairs = rounds(way).zip(rounds(1));
        Spread::of(
            pairs.map(|((own, direct), (nginx, _))| figure(own, direct) / figure(nginx, direct)),
        )
    }

    fn print(&self, title: &str, load: usize) {
        println!("\n{title}");
        let is_latency = LOADS[load].0 == 1;
        let (a, b) = match is_latency {
            true => ("p50 added, µs", "p99 added, µs"),
            false => ("requests a second", "p99, µs"),
        };
        println!(
            "  {:<12}{a:>26}{b:>26}{:>22}{:>20}",
            "", "CPU µs a request", "to nginx"
        );
        for (at, way) in self.ways.iter().enumerate() {
            let rounds = &way.loads[load];
            let of = |figure: fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
            let (a, b, ratio) = match is_latency {
                true if at == 0 => (of(|r| r.p50), of(|r| r.p99), None),
                true => (
                    self.added(at, load, |r| r.p50),
                    self.added(at, load, |r| r.p99),
                    Some(self.to_nginx(at, load, |r, direct| r.p50 - direct.p50)),
                ),
                false => (
                    of(|r| r.rate),
                    of(|r| r.p99),
                    Some(self.to_nginx(at, load, |r, _| r.rate)),
                ),
            };
            let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
            println!(
                "  {:<12}{a:>26.0}{b:>26.0}{:>22.1}{ratio:>20}",
                way.name,
                of(|r| r.cpu)
            );
        }
    }
}
