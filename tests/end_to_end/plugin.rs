//! The kubectl plugin: packed, installed with krew, and asked by kubectl for completions.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    harness::{gate::program, plane::Plane},
    world::{accepts, lone_node, said},
};

fn script(arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin/package.sh");
    Command::new(script).args(arguments).output().unwrap()
}

/// Where the plugin is installed, with a PATH on which kubectl finds it.
struct Installed<'a> {
    plane: &'a Plane,
    root: PathBuf,
}

impl Installed<'_> {
    fn run(&self, tool: &str, arguments: &[&str]) -> Output {
        let folders = [self.root.join("bin"), self.store(), self.plane.tool(""), "/usr/bin".into(), "/bin".into()];
        Command::new(self.plane.tool(tool))
            .args(arguments)
            .env("PATH", env::join_paths(folders).unwrap())
            .env("KREW_ROOT", &self.root)
            // Otherwise it may ask GitHub for its own newest version.
            .env("KREW_NO_UPGRADE_CHECK", "1")
            .env("KUBECONFIG", self.plane.kubeconfig("admin"))
            .env("HOME", self.plane.folder.path())
            .output()
            .unwrap()
    }

    /// The folder with the files of the archive.
    fn store(&self) -> PathBuf {
        self.root.join(format!("store/fencegate/v{}", env!("CARGO_PKG_VERSION")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn krew_installs_the_plugin_and_kubectl_completes_the_names_of_nodes() {
    let plane = Plane::start().await;
    lone_node(&plane, "worker-2", false).await;
    let out = plane.folder.path().join("archives");
    fs::create_dir(&out).unwrap();
    let (program, out_text) = (program(), out.to_str().unwrap());
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    accepts(script(&["archive", program.to_str().unwrap(), "linux", arch, out_text]));
    let archive =
        |os: &str, arch: &str| out.join(format!("fencegate_v{}_{os}_{arch}.tar.gz", env!("CARGO_PKG_VERSION")));
    let here = archive("linux", arch);
    for (os, arch) in [("linux", "amd64"), ("linux", "arm64"), ("darwin", "amd64"), ("darwin", "arm64")] {
        // The manifest only needs the checksums of the others.
        if archive(os, arch) != here {
            fs::write(archive(os, arch), os).unwrap();
        }
    }
    let printed = script(&["manifest", "https://example.com/releases", out_text]);
    assert!(printed.status.success(), "{}", said(&printed));
    let manifest = plane.folder.path().join("fencegate.yaml");
    fs::write(&manifest, printed.stdout).unwrap();
    let manifest = manifest.to_str().unwrap();

    let installed = Installed { plane: &plane, root: plane.folder.path().join("krew") };
    // krew's own rules: it downloads nothing.
    accepts(installed.run("validate-krew-manifest", &["-manifest", manifest, "-skip-install"]));
    accepts(installed.run("krew", &["install", "--manifest", manifest, "--archive", here.to_str().unwrap()]));
    assert!(installed.store().join("LICENSE").exists());

    let told = installed.run("kubectl", &["fencegate", "status", "--all", "--no-headers"]);
    assert!(told.status.success(), "{}", said(&told));
    assert!(String::from_utf8_lossy(&told.stdout).starts_with("worker-2 "), "{}", said(&told));
    for (words, completed) in [
        (["fencegate", "place", "wor"].as_slice(), "worker-2\n:4\n"),
        (&["fencegate", "rel"], "release\tReturn a node to service, once nothing is left on it: "),
        (&["fencegate", "attest", "worker-2", "--method", "power"], "power-off"),
        (&["fencegate", "status", "--kubeconfig", ""], ":0\n"),
    ] {
        let asked = installed.run("kubectl", &[&["__complete"], words].concat());
        assert!(String::from_utf8_lossy(&asked.stdout).starts_with(completed), "{words:?}: {}", said(&asked));
    }
}
