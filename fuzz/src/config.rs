//! The configuration: what is accepted turns off no check that cannot be turned off.

use std::collections::BTreeSet;

use fencegate::{
    config,
    policy::reason::{Code, Mode},
};

pub fn check(data: &[u8]) {
    let settings = match config::parse(data) {
        Ok(settings) => settings,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for code in Code::ALL.iter().filter(|code| !code.can_be_turned_off()) {
        assert_eq!(settings.mode(*code), Mode::Enforce.min(settings.strictest(*code)), "{code}");
        assert_ne!(settings.mode(*code), Mode::Off, "{code}");
    }
    let sources: BTreeSet<&str> = settings.sources.iter().map(|source| source.name()).collect();
    assert!(!sources.is_empty() && sources.len() == settings.sources.len(), "{sources:?}");
    assert!(!settings.max_age.is_negative() && !settings.clock_skew.is_negative(), "{settings:?}");
}
