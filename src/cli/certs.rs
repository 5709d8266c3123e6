//! `fencegate certs`: make a CA and a serving certificate for development.

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

use crate::certificates::issue::Development;

/// Make a CA and a serving certificate for development: ca.crt, tls.crt and tls.key.
///
/// The CA's key is discarded. A webhook configuration takes ca.crt, base64-encoded, as caBundle.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:
  fencegate certs
  fencegate certs --out /tmp/certs --host fencegate.fencegate-system.svc --days 7")]
pub struct Args {
    /// Folder to write to; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = "certs/dev")]
    out: PathBuf,
    /// DNS name or IP address of the server; may be repeated
    #[arg(long = "host", value_name = "HOST", default_values = ["localhost", "127.0.0.1", "::1"])]
    hosts: Vec<String>,
    /// Validity in days
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// The mode of a certificate: everyone may read it.
const PUBLIC: u32 = 0o644;
/// The mode of a key: only the owner may read it.
const PRIVATE: u32 = 0o600;

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let made = Development::make(&args.hosts, args.days, Timestamp::now())?;
    fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let files = [("ca.crt", &made.ca, PUBLIC), ("tls.crt", &made.certificate, PUBLIC), ("tls.key", &made.key, PRIVATE)];
    for (name, _, _) in files {
        let path = args.out.join(name);
        if path.exists() && !args.force {
            bail!("{} exists already; use --force to replace it", path.display());
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

/// Writes a temporary file and renames it, so that nobody reads half a file, or a key that others
/// may read.
fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(&temporary, path)?)
}
