//! `fencegate certs`: a CA and a serving certificate for development.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use jiff::Timestamp;

use crate::tls::issue::Development;

/// Make a CA and a serving certificate for development: ca.crt, tls.crt and tls.key.
///
/// The CA's own key is thrown away. ca.crt in base64 is what a webhook configuration wants as caBundle.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate certs
  fencegate certs --out /tmp/certs --host fencegate.fencegate-system.svc --days 7")]
pub struct Args {
    /// The folder that they are written to; made if it is not there
    #[arg(long, value_name = "DIR", default_value = "certs/dev")]
    out: PathBuf,
    /// A DNS name or IP address that is served; may be given several times
    #[arg(long = "host", value_name = "HOST", default_values = ["localhost", "127.0.0.1", "::1"])]
    hosts: Vec<String>,
    /// Days until they end
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u32,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Everyone may read a certificate.
const PUBLIC: u32 = 0o644;
/// Only the owner reads a key.
const PRIVATE: u32 = 0o600;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let made = Development::make(&args.hosts, args.days, Timestamp::now())?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let files = [("ca.crt", &made.ca, PUBLIC), ("tls.crt", &made.certificate, PUBLIC), ("tls.key", &made.key, PRIVATE)];
    for (name, _, _) in files {
        let path = args.out.join(name);
        if path.exists() && !args.force {
            bail!("{} is there already; --force replaces it", path.display());
        }
    }
    for (name, content, mode) in files {
        let path = args.out.join(name);
        write(&path, content, mode).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    eprintln!("valid for {} until {}", args.hosts.join(", "), made.not_after);
    Ok(ExitCode::SUCCESS)
}

/// Writes a file beside its place and moves it there, so that nobody reads half of it, nor a key before it is private.
fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(&beside, path)?)
}
