//! The container image as `make image` leaves it: taken apart as a runtime does, and the program run from it.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot run fails")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

fn unpack(archive: &Path, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder).status().unwrap();
    assert!(status.success(), "{}", archive.display());
}

/// The image, unpacked: its configuration and its root.
struct Image {
    folder: TempDir,
    index: Value,
    config: Value,
}

impl Image {
    fn open() -> Self {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/image/fencegate.oci.tar");
        assert!(archive.exists(), "make image");
        let folder = tempfile::tempdir().unwrap();
        let oci = folder.path().join("oci");
        unpack(&archive, &oci);
        let blob = |described: &Value| {
            let digest = described["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let path = oci.join("blobs/sha256").join(digest);
            assert_eq!(fs::metadata(&path).unwrap().len(), described["size"].as_u64().unwrap());
            path
        };
        let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        assert_eq!(read(&oci.join("oci-layout"))["imageLayoutVersion"], "1.0.0");
        let index = read(&oci.join("index.json"));
        let manifest = read(&blob(&index["manifests"][0]));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        unpack(&blob(&layers[0]), &folder.path().join("root"));
        Self { config: read(&blob(&manifest["config"])), index, folder }
    }

    fn program(&self) -> std::path::PathBuf {
        self.folder.path().join("root/fencegate")
    }

    /// Runs the program with nothing in its environment.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.program()).args(arguments).env_clear().current_dir(self.folder.path()).output().unwrap()
    }
}

#[test]
fn it_says_what_to_run_and_as_whom() {
    let image = Image::open();
    assert_eq!(image.config["os"], "linux");
    let config = &image.config["config"];
    assert_eq!((&config["Entrypoint"], &config["User"]), (&json!(["/fencegate"]), &json!("65532:65532")));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    let name = &image.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*name, format!("fencegate:{}", env!("CARGO_PKG_VERSION")), "what the manifests ask for");
}

#[test]
fn there_is_nothing_in_it_but_the_program_its_licence_and_what_it_is_made_of() {
    let image = Image::open();
    let entries = fs::read_dir(image.folder.path().join("root")).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<(String, u32)> = entries
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().permissions().mode() & 0o7777)
        })
        .collect();
    found.sort();
    let expected = [("LICENSE", 0o644), ("fencegate", 0o755), ("fencegate.cdx.json", 0o644)];
    assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
}

#[test]
fn the_program_needs_nothing_else_and_runs() {
    let image = Image::open();
    let bytes = fs::read(image.program()).unwrap();
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    // ELF64, little-endian: e_phoff, e_phentsize, e_phnum; p_type 3 is PT_INTERP, the loader that a dynamic program asks for.
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0 && (0..count).all(|header| number(headers + header * size, 4) != 3), "it asks for a loader");

    let version = image.run(&["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("fencegate {}\n", env!("CARGO_PKG_VERSION")));
    let demo = image.run(&["demo"]);
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    assert!(bytes.len() < 12 << 20, "{} bytes", bytes.len());
}

#[test]
fn what_it_is_made_of_can_be_read_from_it() {
    let image = Image::open();
    let bytes = fs::read(image.program()).unwrap();
    assert!(bytes.windows(8).any(|window| window == b".dep-v0\0"), "no section of cargo-auditable");
    let text = fs::read_to_string(image.folder.path().join("root/fencegate.cdx.json")).unwrap();
    let bom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["metadata"]["component"]["name"]), (&json!("CycloneDX"), &json!("fencegate")));
    let components = bom["components"].as_array().unwrap();
    for name in ["rustls", "kube-client", "axum", "aws-lc-rs"] {
        assert!(components.iter().any(|component| component["name"] == name), "{name}");
    }
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "where it was built is nobody's business");
}
