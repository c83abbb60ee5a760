//! What routing, parsing, translating and rendering cost, with allocations:
//! `cargo bench --bench translation`.

#![allow(clippy::expect_used, clippy::panic)]

mod cases;

use std::sync::LazyLock;

use cases::{Case, cases};
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

static CASES: LazyLock<Vec<Case>> = LazyLock::new(cases);
const NAMES: [usize; 5] = [0, 1, 2, 3, 4];

fn main() {
    for (number, case) in CASES.iter().enumerate() {
        println!("{number}: {}", case.name);
    }
    divan::main();
}

#[divan::bench(args = NAMES)]
fn a_route_and_query(bencher: Bencher<'_, '_>, case: usize) {
    bencher.bench(|| CASES[case].route());
}

#[divan::bench(args = NAMES)]
fn b_parse(bencher: Bencher<'_, '_>, case: usize) {
    let case = &CASES[case];
    bencher
        .with_inputs(|| case.route())
        .bench_values(|(dialect, query)| case.parse(&dialect, query));
}

#[divan::bench(args = NAMES)]
fn c_translate(bencher: Bencher<'_, '_>, case: usize) {
    let case = &CASES[case];
    bencher
        .with_inputs(|| {
            let (dialect, query) = case.route();
            case.parse(&dialect, query).execution
        })
        .bench_values(|execution| case.translate(execution));
}

#[divan::bench(args = NAMES)]
fn d_read_the_answer(bencher: Bencher<'_, '_>, case: usize) {
    let case = &CASES[case];
    let (dialect, query) = case.route();
    let (request, _) = case.translate(case.parse(&dialect, query).execution);
    bencher.bench(|| case.read(&request));
}

#[divan::bench(args = NAMES)]
fn e_render(bencher: Bencher<'_, '_>, case: usize) {
    let case = &CASES[case];
    let (dialect, query) = case.route();
    let parsed = case.parse(&dialect, query);
    let handle = case.track(&parsed.execution);
    let (request, _) = case.translate(parsed.execution.clone());
    let state = case.read(&request);
    bencher.bench(|| case.render(&handle, parsed.form, &state));
}
