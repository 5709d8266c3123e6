//! Processes on this machine: each is under a keeper that ends it with its test, and each has ports
//! of its own.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

/// A process of the control plane, under a keeper ([`keep`]). It stops when the keeper's standard
/// input is closed, which happens even if the test is killed.
pub struct Part {
    pub name: String,
    pub arguments: Vec<String>,
    pub keeper: Child,
}

impl Part {
    /// Kills the process and waits for its end.
    pub fn kill(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a program under a shell, the keeper. For every line on its standard input, the keeper
/// sends the program the signal of that name. When its standard input is closed, it kills the
/// program.
pub fn keep(program: &Path, arguments: &[String], log: &Path, environment: &[(&str, String)]) -> Child {
    let output = File::options().create(true).append(true).open(log).unwrap();
    Command::new("sh")
        .args(["-c", KEEPER, "keeper"])
        .arg(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .stdin(Stdio::piped())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Sends the signal with this name to the program under a keeper.
pub fn signal(keeper: &mut Child, name: &str) {
    writeln!(keeper.stdin.as_mut().unwrap(), "{name}").unwrap();
}

/// Ctrl-C goes to the whole process group. The keeper ignores it, so that it can kill its program
/// when its standard input is closed.
const KEEPER: &str = r#""$@" </dev/null & child=$!
trap '' HUP INT TERM
while read -r signal; do kill -"$signal" "$child"; done
kill -9 "$child" 2>/dev/null; wait "$child""#;

/// What this line of `/proc/PID/status` says of a process, in bytes.
pub fn memory(process: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The binaries that the tests start.
const PARTS: [&str; 8] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "csi-attacher", "kwok", "helm"];

pub fn binaries() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster");
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").map_or(built, PathBuf::from);
    for name in PARTS {
        assert!(folder.join(name).exists(), "{name} is not in {}: run make control-plane", folder.display());
    }
    folder
}

/// A free port. It is below the range from which the kernel gives ports to clients, and it is never
/// returned twice.
pub fn free_port() -> u16 {
    // Above the ports of well-known services, below Linux' default `ip_local_port_range`.
    const FIRST: u16 = 20_000;
    const LAST: u16 = 32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time start at different ports.
    let start = u16::try_from(std::process::id() % 100).unwrap() * 100;
    let candidates = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    let mut ports = candidates.map(|next| FIRST + start.wrapping_add(next) % (LAST - FIRST));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
