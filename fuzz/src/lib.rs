//! Laws that hold for every input. Each module takes one kind of input: its `check` panics if an
//! input breaks a law.
//!
//! `make fuzz` lets libFuzzer make up inputs. `tests/fuzzing.rs` has the same modules, and runs
//! them with the inputs that are kept in `corpus` and `crashes`. Nothing here reaches into the
//! program: the modules use what the program's own layers use.

pub mod audit;
pub mod certificates;
pub mod choices;
pub mod cidrs;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod decide;
pub mod memory;
pub mod review;
#[path = "../../tests/support/reviews.rs"]
pub mod reviews;
pub mod times;
pub mod words;
pub mod world;

/// A kind of input: its name, and what checks one input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target. Each has a program in `targets` and a folder in `corpus`.
pub const TARGETS: [Target; 9] = [
    ("audit", audit::check),
    ("certificates", certificates::check),
    ("cidrs", cidrs::check),
    ("cluster", cluster::check),
    ("config", config::check),
    ("connection", connection::check),
    ("decide", decide::check),
    ("review", review::check),
    ("times", times::check),
];
