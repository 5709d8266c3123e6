//! A server that is measured: a process on one core.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use http::Method;
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    harness::{plane::call, process::memory},
    load::Load,
};

/// The core that servers run on. The load has another one.
const CORE: &str = "0";
/// A server that does not answer rightly by then is not set up rightly.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a server needs beside CPU.
pub struct Memory {
    pub name: String,
    /// From its start to the first right answer.
    pub first: Duration,
    /// MiB after that, and at most.
    pub idle: u64,
    pub most: u64,
}

pub struct Server {
    name: String,
    child: Child,
    started: Instant,
    /// From the start of the process, and its memory then, in MiB.
    first: Option<(Duration, u64)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub fn start(name: &str, program: &Path, arguments: &[String], environment: &[(&str, String)]) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", CORE]).arg(program).args(arguments);
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        let log =
            fs::File::create(format!("target/speed-{}.log", name.split([' ', ',', ':']).next().unwrap())).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        // As a container runtime reads it.
        let mut output = child.stdout.take().unwrap();
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { name: name.to_owned(), child, started: Instant::now(), first: None }
    }

    /// Asks until the answer is right.
    pub async fn until(&mut self, load: &Load, is_right: impl Fn(&Value) -> bool) {
        let mut config = Config::new(format!("https://127.0.0.1:{}", load.port).parse().unwrap());
        config.accept_invalid_certs = true;
        let client = Client::try_from(config).unwrap();
        let start = Instant::now();
        loop {
            let answer = call(&client, Method::POST, &load.path, Some(load.body.clone())).await;
            if answer.as_ref().is_ok_and(&is_right) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{}: {answer:?}", self.name);
            assert!(self.child.try_wait().unwrap().is_none(), "{} ended, see target/speed-*.log", self.name);
            sleep(Duration::from_millis(2)).await;
        }
        if self.first.is_none() {
            let took = self.started.elapsed();
            // Until it has finished what it does at the start.
            sleep(Duration::from_secs(2)).await;
            self.first = Some((took, self.status("VmRSS:")));
        }
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        // In hundredths of a second: sysconf(_SC_CLK_TCK) is 100 on Linux.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
    }

    pub fn memory(&self) -> Memory {
        let (first, idle) = self.first.unwrap();
        Memory { name: self.name.clone(), first, idle, most: self.status("VmHWM:") }
    }

    /// A line of `/proc/PID/status`, in MiB.
    fn status(&self, line: &str) -> u64 {
        memory(self.child.id(), line) >> 20
    }
}
