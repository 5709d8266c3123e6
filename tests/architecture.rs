//! The structure of the code: which module may use which, how long files and comments may be, and
//! which crates are used. A module may use only layers below its own, in the crate and within
//! `policy`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Layers from the lowest to the highest. Modules of one layer may not use each other.
type Layers = &'static [&'static [&'static str]];

const LAYERS: Layers = &[
    &["policy", "clock", "election", "reload"],
    &["admin", "admission", "audit", "cluster", "config", "metrics", "telemetry", "tls"],
    &["events"],
    &["certificates", "gate"],
    &["watcher"],
    &["server"],
    &["cli"],
    &["main"],
];

const POLICY_LAYERS: Layers = &[
    &["annotation", "json", "text"],
    &["evidence", "object", "shell"],
    &["request"],
    &["blocker", "facts", "transition"],
    &["door"],
    &["review"],
    &["source"],
    &["reason"],
    &["settings"],
    &["proposal", "reach"],
    &["break_glass"],
    &["assessment"],
    &["record"],
    &["rules"],
    &["decision"],
    &["reservation"],
    &["message", "mod"],
    &["standing"],
];

const CERTIFICATES_LAYERS: Layers =
    &[&["issue", "lifetimes"], &["leaf"], &["authority"], &["step"], &["reading"], &["path"], &["plan"], &["mod"]];

/// The crates that `policy` may use.
const POLICY_CRATES: &[&str] = &["std", "core", "serde", "serde_json", "strsim", "jiff", "crate", "super", "self"];

fn layer(layers: Layers, module: &str) -> usize {
    layers
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no layer: add it to a layer above all modules that it uses"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Every source file with the top-level module that it belongs to and its code, without comments.
fn modules() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let inside = path.strip_prefix(&root).unwrap();
        let top = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        let text = fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        (path, top, code.join("\n"))
    };
    sources(&root).into_iter().map(read).filter(|(_, module, _)| module != "lib").collect()
}

/// The first segments of the paths that follow `prefix`, even within braces.
fn used(code: &str, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = code.get(at + prefix.len()..).unwrap();
        let Some(list) = rest.strip_prefix('{') else {
            found.push(rest);
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (index, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.push(list.get(start..index).unwrap());
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push(list.get(start..index).unwrap());
                    start = index + 1;
                }
                _ => {}
            }
        }
    }
    let name = |path: &str| -> String {
        path.trim_start().chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
    };
    found.into_iter().map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_module_uses_only_layers_below_its_own() {
    for (path, module, code) in modules() {
        let crate_name = if module == "main" { "fencegate::" } else { "crate::" };
        for used in used(&code, crate_name) {
            let allowed = used == module || layer(LAYERS, &used) < layer(LAYERS, &module);
            assert!(allowed, "{}: {module} may not use {used}", path.display());
        }
    }
}

#[test]
fn a_module_of_the_policy_uses_only_layers_below_its_own() {
    let uses = check_inner_layers("policy", POLICY_LAYERS);
    assert!(uses > 100, "only {uses} uses were found: does this test still recognise them?");
}

#[test]
fn a_module_of_the_certificates_uses_only_layers_below_its_own() {
    let uses = check_inner_layers("certificates", CERTIFICATES_LAYERS);
    assert!(uses > 5, "only {uses} uses were found: does this test still recognise them?");
}

/// Checks the modules inside a top-level module. Returns how many uses of each other they have.
fn check_inner_layers(outer: &str, layers: Layers) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(outer);
    let absolute = format!("crate::{outer}::");
    let mut uses = 0;
    for (path, _, code) in modules().into_iter().filter(|(_, top, _)| top == outer) {
        let code = without_tests(&code);
        let inside = path.strip_prefix(&folder).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        assert!(!code.contains("super::super"), "{}: use {absolute}", path.display());
        // In a file of a directory, `super` is the directory's module.
        let is_at_the_top = inside.components().count() == 1 || inside.ends_with("mod.rs");
        let mut found = used(code, &absolute);
        if is_at_the_top && module != "mod" {
            found.extend(used(code, "super::"));
        }
        for name in &found {
            // What is no module of its own is an item of `mod.rs`.
            let is_module = folder.join(name).is_dir() || folder.join(format!("{name}.rs")).is_file();
            let other = if is_module { name } else { "mod" };
            let allowed = *other == module || layer(layers, other) < layer(layers, &module);
            assert!(allowed, "{}: {module} may not use {name}", path.display());
        }
        uses += found.len();
    }
    uses
}

/// The code without its unit tests. Tests may use any module.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\n").next().unwrap()
}

#[test]
fn the_policy_has_no_io_and_is_not_async() {
    for (path, module, code) in modules() {
        if module != "policy" {
            continue;
        }
        for line in code.lines().filter(|line| line.trim_start().starts_with("use ")) {
            let first = line.trim_start().trim_start_matches("use ");
            let name: String = first.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy");
            let is_own = policy.join(format!("{name}.rs")).exists() || policy.join(&name).is_dir();
            assert!(is_own || POLICY_CRATES.contains(&name.as_str()), "{}: {line}", path.display());
        }
        for word in ["async fn", ".await", "tokio::", "kube::", "axum::", "k8s_openapi::", "println!"] {
            assert!(!code.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn only_cluster_and_the_command_line_use_kube() {
    for (path, module, code) in modules() {
        let uses_kube = code.contains("kube::");
        assert!(!uses_kube || module == "cluster" || module == "cli", "{}", path.display());
    }
}

#[test]
fn files_stay_short() {
    for (path, _, _) in modules() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 420, "{} has {lines} lines, split it", path.display());
    }
    let main = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 40);
}

#[test]
fn comments_wrap_at_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut too_long = Vec::new();
    for path in
        ["src", "tests", "benches", "examples", "fuzz", "model"].iter().flat_map(|folder| sources(&root.join(folder)))
    {
        let text = fs::read_to_string(&path).unwrap();
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if line.trim_start().starts_with("//") && columns > 100 {
                let file = path.strip_prefix(root).unwrap().display();
                too_long.push(format!("{file}:{}: {columns} columns", index + 1));
            }
        }
    }
    assert!(too_long.is_empty(), "comments that are too long:\n{}", too_long.join("\n"));
}

/// A name in backticks with at least three underscores is the name of a test, unless it is that of
/// a metric.
#[test]
fn the_tests_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code: String = ["src", "tests"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut named = 0;
    for document in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "docs/operations.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let is_test = |word: &&str| {
            word.matches('_').count() >= 3
                && !word.starts_with("fencegate_")
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        for test in text.split('`').filter(is_test) {
            assert!(code.contains(&format!("fn {test}(")), "{document} names {test}, which does not exist");
            named += 1;
        }
    }
    assert!(named >= 10, "{named} tests are named");
}

#[test]
fn uses_are_found_even_within_braces() {
    let code = "use crate::{\n    a::{b, c},\n    d,\n    e::f,\n};\ncrate::g::h();\n";
    assert_eq!(used(code, "crate::"), ["a", "d", "e", "g"]);
}

#[test]
fn docs_reasons_has_the_programs_table_of_reasons() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reasons.md")).unwrap();
    let table = fencegate::policy::message::reference();
    assert!(page.contains(&table), "docs/reasons.md must contain this table:\n{table}");
}

#[test]
fn there_is_one_provider_of_cryptography_and_no_unmaintained_crate() {
    const UNWANTED: [&str; 6] = ["ring", "openssl", "native-tls", "serde_yaml", "rustls-pemfile", "webpki-roots"];
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges=normal,build", "--prefix=none", "--format={p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"aws-lc-rs"), "{text}");
    for unwanted in UNWANTED {
        assert!(!names.contains(&unwanted), "the program depends on {unwanted}");
    }
}
