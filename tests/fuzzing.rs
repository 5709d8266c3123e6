//! The laws that `make fuzz` tries to break hold for every input that is kept: for those that reach
//! different code (`fuzz/corpus`), and for those that broke a law once (`fuzz/crashes`).
//!
//! The laws are the same modules in both; only the inputs differ.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that cannot run fails"
)]

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::{TARGETS, words};

/// Keeps the tests of this file apart: the memory of one piece of work at a time can be measured.
fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names the input that is checked if it breaks a law.
struct Checked(PathBuf);

impl Drop for Checked {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{} breaks a law", self.0.display());
        }
    }
}

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target)
}

/// The files in a folder, none if it is not there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_kept_input_obeys_the_laws() {
    let _alone = alone();
    for (target, check) in TARGETS {
        let corpus = files(&folder("corpus", target));
        assert!(corpus.len() >= 10, "{target} has {} inputs", corpus.len());
        for path in corpus.into_iter().chain(files(&folder("crashes", target))) {
            let input = fs::read(&path).unwrap();
            let _checked = Checked(path);
            check(&input);
        }
    }
}

#[test]
fn every_target_has_a_program_and_every_folder_a_target() {
    let _alone = alone();
    for (target, _) in TARGETS {
        let program = fs::read_to_string(folder("targets", &format!("{target}.rs"))).unwrap();
        assert!(program.contains(&format!("fencegate_fuzz::{target}::check(data)")), "{program}");
    }
    for kind in ["corpus", "crashes"] {
        for path in files(&folder(kind, "")) {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(TARGETS.iter().any(|(target, _)| *target == name), "{kind}/{name} has no target");
        }
    }
}

#[test]
fn a_text_that_is_not_the_gates_own_breaks_a_law() {
    let _alone = alone();
    let of = |line: &str| format!("node \"n1\" may not be put out of service:\n{line}");
    for (line, is_lawful) in [
        ("  EvidenceMissing: annotations: fencegate.dev/method is not set", true),
        ("record the fence, then try again:", true),
        ("  kubectl annotate node n1 'fencegate.dev/fenced-by=o'\\''brien; x' fencegate.dev/fenced-at=now", true),
        ("  PWNED", false),
        ("PWNED", false),
        ("", false),
        ("a tab\there", false),
        ("text\u{202e}", false),
        ("  kubectl get nodes $(id)", false),
        ("  kubectl get nodes; id", false),
        ("  kubectl get nodes > file", false),
        ("  kubectl get nodes 'no end", false),
        ("  kubectl get \"nodes\"", false),
        ("  kubectl get =ls", false),
        ("  kubectl get", false),
    ] {
        let checked = catch_unwind(|| words::check_denial(&of(line)));
        assert_eq!(checked.is_ok(), is_lawful, "{line:?}");
    }
    assert!(catch_unwind(|| words::check_denial(&of(&"x".repeat(4096)))).is_err());
    assert!(catch_unwind(|| words::check_warning(&"x".repeat(121))).is_err());
}

#[test]
fn the_memory_of_a_piece_of_work_is_measured() {
    let _alone = alone();
    let (length, peak) = fuzz::memory::peak(|| vec![1_u8; 50_000_000].len());
    // The threads of the test's harness may free some bytes meanwhile.
    assert!(peak + 100_000 >= length, "{peak}");
}

/// Lists that become as large as possible in memory for their length as text: they have one item
/// more than fits, so that their vector has just been copied to one of twice the size.
#[test]
fn a_large_review_takes_a_multiple_of_its_length() {
    let _alone = alone();
    let of = |user: &str, node: &str| {
        let user = format!(r#"{{"username":"alice"{user}}}"#);
        let objects = format!(r#""oldObject":{{"metadata":{{"name":"n1"}}}},"object":{node}"#);
        let request = format!(r#"{{"uid":"u","operation":"UPDATE","userInfo":{user},{objects}}}"#);
        format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{request}}}"#)
    };
    let list = |item: &str| vec![item; 65_537].join(",");
    let metadata =
        |field: &str, item: &str| of("", &format!(r#"{{"metadata":{{"name":"n1","{field}":[{}]}}}}"#, list(item)));
    let status =
        |field: &str| of("", &format!(r#"{{"metadata":{{"name":"n1"}},"status":{{"{field}":[{}]}}}}"#, list("{}")));
    let taints =
        |item: &str| of("", &format!(r#"{{"metadata":{{"name":"n1"}},"spec":{{"taints":[{}]}}}}"#, list(item)));
    for body in [
        of(&format!(r#","groups":[{}]"#, list("\"\"")), "{}"),
        of(&format!(r#","extra":{{"a":[{}]}}"#, list("\"\"")), r#"{"metadata":{"name":"n1"}}"#),
        metadata("finalizers", "\"\""),
        metadata("managedFields", "{}"),
        metadata("ownerReferences", "{}"),
        taints("{}"),
        taints(r#"{"key":"node.kubernetes.io/out-of-service"}"#),
        status("conditions"),
        status("addresses"),
        status("volumesAttached"),
        // As long as a review may be.
        of(
            "",
            &format!(
                r#"{{"metadata":{{"name":"n1"}},"status":{{"conditions":[{}]}}}}"#,
                vec!["{}"; 2_400_000].join(",")
            ),
        ),
        of(
            "",
            &format!(
                r#"{{"metadata":{{"name":"n1","managedFields":[{{"fieldsV1":{}0{}}}]}}}}"#,
                r#"{"a":"#.repeat(100),
                "}".repeat(100)
            ),
        ),
    ] {
        for choice in 0..4 {
            fuzz::review::check(&[&[choice], body.as_bytes()].concat());
        }
    }
}
