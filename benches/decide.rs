//! What a review costs: reading it, deciding about it, answering it.

fn main() {
    divan::main();
}
