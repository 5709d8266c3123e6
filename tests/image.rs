//! The container image that `make image` builds: unpacked as a container runtime does, and its
//! program run.

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

    /// Runs the program in an empty environment.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(self.program()).args(arguments).env_clear().current_dir(self.folder.path()).output().unwrap()
    }
}

#[test]
fn the_image_names_its_program_its_user_and_its_version() {
    let image = Image::open();
    assert_eq!(image.config["os"], "linux");
    let config = &image.config["config"];
    assert_eq!((&config["Entrypoint"], &config["User"]), (&json!(["/fencegate"]), &json!("65532:65532")));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    let name = &image.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*name, format!("fencegate:{}", env!("CARGO_PKG_VERSION")), "the image of the manifests");
}

#[test]
fn the_image_contains_only_the_program_its_licence_and_its_dependency_list() {
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
fn the_program_is_linked_statically_and_runs_in_an_empty_environment() {
    let image = Image::open();
    let bytes = fs::read(image.program()).unwrap();
    let number = |at: usize, length: usize| {
        bytes[at..at + length].iter().rev().fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    // ELF64, little-endian: e_phoff, e_phentsize, e_phnum; p_type 3 is PT_INTERP, the path of the
    // loader that a dynamically linked program needs.
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01");
    let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    assert!(count > 0 && (0..count).all(|header| number(headers + header * size, 4) != 3), "it needs a loader");

    let version = image.run(&["--version"]);
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("fencegate {}\n", env!("CARGO_PKG_VERSION")));
    let demo = image.run(&["demo"]);
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
    // The gate and the commands for operators are one program.
    assert!(bytes.len() < 14 << 20, "{} bytes", bytes.len());
}

#[test]
fn the_program_and_its_bill_of_materials_list_the_dependencies() {
    let image = Image::open();
    let bytes = fs::read(image.program()).unwrap();
    assert!(bytes.windows(8).any(|window| window == b".dep-v0\0"), "it has no section of cargo-auditable");
    let text = fs::read_to_string(image.folder.path().join("root/fencegate.cdx.json")).unwrap();
    let bom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["metadata"]["component"]["name"]), (&json!("CycloneDX"), &json!("fencegate")));
    let components = bom["components"].as_array().unwrap();
    for name in ["rustls", "kube-client", "axum", "aws-lc-rs"] {
        assert!(components.iter().any(|component| component["name"] == name), "{name}");
    }
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "it contains the path of the folder where it was built");
}
