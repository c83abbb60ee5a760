//! Runs one case of the translation so many times, for `.ci/instructions` to count: by its number
//! and the times. Without a number it lists the cases.

#![allow(clippy::expect_used, clippy::panic)]

#[path = "translation/cases.rs"]
mod cases;

fn main() {
    let numbers: Vec<usize> = std::env::args()
        .filter_map(|text| text.parse().ok())
        .collect();
    match numbers[..] {
        [case, times] => {
            let case = &cases::cases()[case];
            let bytes: usize = (0..times).map(|_| std::hint::black_box(case).all()).sum();
            println!("{bytes}");
        }
        _ => cases::cases()
            .iter()
            .for_each(|case| println!("{}", case.name)),
    }
}
