//! Certificates, keys and CAs that others may have written: the Secret, `caBundle`, and the files
//! of `--tls-cert`. The first byte chooses what the rest is.
//!
//! `@CERTIFICATE@` and `@KEY@` stand for a CA of this process and its key, so that no key need be
//! kept in the repository.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use fencegate::{
    certificates::{
        authority::{Authority, Change},
        leaf::Leaf,
        lifetimes::Lifetimes,
        plan::{Known, acceptance, plan},
        reading::{Now, Read, Replicas, Secret, Seen},
        step::Step,
    },
    cluster::registration::{Configuration, Target},
    election::Lease,
    policy::review::Webhook,
    tls::{Serving, certificates},
};
use jiff::SignedDuration;
use serde_json::Value;

use super::review::now;

const HOST: &str = "fencegate.fencegate-system.svc";
const LIFETIMES: Lifetimes = Lifetimes {
    ca: SignedDuration::from_hours(24 * 365),
    leaf: SignedDuration::from_hours(24),
    settle: SignedDuration::from_mins(1),
};

/// A CA, its certificate and key, and what it signed.
struct Made {
    authority: Authority,
    certificate: String,
    key: String,
    leaf: Leaf,
}

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let authority = Authority::create(b"", now(), &LIFETIMES).unwrap();
    let stored: Value = serde_json::from_slice(&authority.to_bytes().unwrap()).unwrap();
    let text = |field: &str| stored["current"][field].as_str().unwrap().to_owned();
    let leaf = authority.issue(&[HOST.to_owned()], now(), &LIFETIMES).unwrap();
    Made { certificate: text("certificate"), key: text("key"), leaf, authority }
});

pub fn check(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice % 4 {
        0 => secret(&replaced(rest, |text| text.replace('\n', "\\n"))),
        1 => bundle(&replaced(rest, str::to_owned)),
        2 => bundle(pem(rest).as_bytes()),
        _ => files(&replaced(rest, str::to_owned)),
    }
}

/// The bytes with the real certificate and key, each written as `write` does.
fn replaced(bytes: &[u8], write: impl Fn(&str) -> String) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(bytes) else { return bytes.to_vec() };
    let text = text.replace("@CERTIFICATE@", &write(&MADE.certificate)).replace("@KEY@", &write(&MADE.key));
    text.into_bytes()
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(der))
}

/// The value in the Secret: if it is a CA that can sign, it is written as it was read, its bundle
/// is readable, and every change to it can be read again.
fn secret(bytes: &[u8]) {
    let authority = match Authority::parse(bytes, now()) {
        Ok(authority) => authority,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return step(Secret::Unusable(error.to_string()), b"");
        }
    };
    assert_eq!(Authority::parse(&authority.to_bytes().unwrap(), now()).unwrap(), authority);
    assert!(authority.is_valid(now()));
    let bundle = authority.bundle(now());
    certificates(bundle.as_bytes()).unwrap();
    for change in [Change::NotePublished, Change::Promote, Change::DropPrevious] {
        let changed = authority.change(&change, now(), &LIFETIMES).unwrap();
        if let Ok(read) = Authority::parse(&changed.to_bytes().unwrap(), now()) {
            assert_eq!(read, changed);
        }
    }
    step(Secret::Usable(authority), bundle.as_bytes());
}

/// A `caBundle` that another wrote: what fencegate adopts from it can be published, and it is not
/// adopted twice.
fn bundle(bytes: &[u8]) {
    let authority = &MADE.authority;
    let unknown = authority.unknown_in(bytes);
    let adopted = authority.change(&Change::Adopt(unknown), now(), &LIFETIMES).unwrap();
    assert_eq!(adopted.unknown_in(bytes), "");
    let published = adopted.bundle(now());
    certificates(published.as_bytes()).unwrap();
    assert!(MADE.leaf.verify(published.as_bytes(), HOST, now()).is_ok(), "{published}");
    // Both are readable, or none.
    assert_eq!(Authority::parse(&adopted.to_bytes().unwrap(), now()).unwrap(), adopted);
    if let Err(error) = MADE.leaf.verify(bytes, HOST, now()) {
        assert!(!error.to_string().is_empty());
    }
    step(Secret::Usable(authority.clone()), bytes);
    step(Secret::Absent, bytes);
}

/// The certificate, the key and the client CA, as they are in the files, separated by NUL.
fn files(bytes: &[u8]) {
    let files: Vec<Vec<u8>> = bytes.split(|byte| *byte == 0).take(3).map(<[u8]>::to_vec).collect();
    match Serving::parse(&files, &[]) {
        Ok(serving) => assert_eq!(serving.check(serving.not_before).is_ok(), serving.not_before <= serving.not_after),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The next step of a replica that reads this.
fn step(secret: Secret, ca_bundle: &[u8]) {
    let mut known = Known::new("fencegate-0".to_owned(), HOST.to_owned(), Duration::from_secs(10), MADE.leaf.clone());
    let found = || {
        Read::Found(Configuration {
            ca_bundle: ca_bundle.to_vec(),
            target: Target::Url,
            doors: Vec::new(),
            owned: None,
            version: "1".to_owned(),
        })
    };
    let configurations = Webhook::ALL.map(|webhook| (webhook, found()));
    let lease = Read::Found(Lease { holder: "fencegate-0".to_owned(), version: "1".to_owned() });
    let seen = Seen { began: now(), configurations, secret, request: None, lease, replicas: Replicas::Current };
    let at = Now { wall: now(), monotonic: Duration::ZERO };
    known.observe(&seen, at);
    acceptance(&known, &seen, at);
    match plan(&known, &seen, at, &LIFETIMES) {
        Step::Publish { bundle, .. } => drop(certificates(bundle.as_bytes()).unwrap()),
        Step::Change { authority, change: Change::Adopt(unknown), .. } => {
            authority.change(&Change::Adopt(unknown), now(), &LIFETIMES).unwrap();
        }
        _ => {}
    }
}
