//! The paths by which API servers call the webhooks. Every other request is a stranger's, and is
//! answered with HTTP 404 before its body is read.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::memory::Memory;
use crate::policy::review::Webhook;

/// The fewest characters of a secret from a file: 80 bits in hexadecimal digits.
const SHORTEST_SECRET: usize = 20;
/// The most: an API server takes no more in a part of a path.
const LONGEST_SECRET: usize = 200;
/// How long a call by an unknown path waits for another look at what is published. An API server
/// waits for 5 s.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Room for 64 calls that wait, a third of it for each address.
const WAITING: usize = 1024 * 1024;

/// The webhook that each path calls.
///
/// A hash map: its hashes are keyed at random, so the time that a search takes does not tell how
/// much of a secret was guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(HashMap<String, Webhook>);

/// Why a file with secrets cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    #[error("it has no secret: one a line is expected")]
    None,
    #[error("line {0} has less than {SHORTEST_SECRET} characters, or more than {LONGEST_SECRET}")]
    Length(usize),
    #[error("line {0} has another character than lower-case letters and digits: no API server takes it in a path")]
    Character(usize),
}

impl Paths {
    /// `/mutate` and `/validate`.
    pub fn plain() -> Self {
        Self::of(Webhook::ALL.map(|webhook| (plain(webhook), webhook)))
    }

    /// These. A path that both webhooks have calls neither: a review does not tell which one it is
    /// for.
    pub fn of(paths: impl IntoIterator<Item = (String, Webhook)>) -> Self {
        let mut of: HashMap<String, Option<Webhook>> = HashMap::new();
        for (path, webhook) in paths {
            let called = of.entry(path).or_insert(Some(webhook));
            *called = called.filter(|called| *called == webhook);
        }
        Self(of.into_iter().filter_map(|(path, webhook)| Some((path, webhook?))).collect())
    }

    /// `/mutate/SECRET` and `/validate/SECRET` for each line of a file.
    ///
    /// # Errors
    /// If there is no secret, or one is too short or cannot be part of a path.
    pub fn parse(file: &[u8]) -> Result<Self, SecretError> {
        let text = String::from_utf8_lossy(file);
        let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
        let secrets: Vec<(&str, usize)> = lines.filter(|(secret, _)| !secret.is_empty()).collect();
        if secrets.is_empty() {
            return Err(SecretError::None);
        }
        let is_allowed = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        let mut paths = Vec::new();
        for (secret, line) in secrets {
            if !(SHORTEST_SECRET..=LONGEST_SECRET).contains(&secret.len()) {
                return Err(SecretError::Length(line));
            }
            if !secret.chars().all(is_allowed) {
                return Err(SecretError::Character(line));
            }
            paths.extend(Webhook::ALL.map(|webhook| (with_secret(webhook, secret), webhook)));
        }
        Ok(Self::of(paths))
    }

    fn webhook(&self, path: &str) -> Option<Webhook> {
        self.0.get(path).copied()
    }
}

/// The path without a secret.
pub fn plain(webhook: Webhook) -> String {
    format!("/{}", webhook.name())
}

/// The path with a secret.
pub fn with_secret(webhook: Webhook, secret: &str) -> String {
    format!("/{}/{secret}", webhook.name())
}

/// Where the paths in use are known from.
#[derive(Clone)]
pub enum Source {
    /// From a file, or they are the plain ones.
    Given(Arc<ArcSwap<Paths>>),
    /// From the webhook configurations.
    Published(Published),
}

impl Source {
    /// The plain paths.
    pub fn plain() -> Self {
        Self::Given(Arc::new(ArcSwap::from_pointee(Paths::plain())))
    }

    /// The webhook that a client at this address calls. `None`: it is a stranger.
    pub(super) async fn webhook(&self, path: &str, address: Option<IpAddr>) -> Option<Webhook> {
        match self {
            Self::Given(paths) => paths.load().webhook(path),
            Self::Published(published) => published.webhook(path, address).await,
        }
    }
}

/// The paths that the webhook configurations name, as they were last read.
#[derive(Clone)]
pub struct Published {
    paths: watch::Receiver<Paths>,
    look: Arc<Notify>,
    /// What calls by an unknown path may take while they wait, apart from the memory of reviews.
    waiting: Arc<Memory>,
}

/// Tells the paths that the webhook configurations name.
pub struct Publisher {
    paths: watch::Sender<Paths>,
    look: Arc<Notify>,
}

/// Both ends. Until the first look no path is known.
pub fn published() -> (Publisher, Published) {
    let (sender, receiver) = watch::channel(Paths::default());
    let look = Arc::new(Notify::new());
    let published = Published { paths: receiver, look: Arc::clone(&look), waiting: Arc::new(Memory::of(WAITING)) };
    (Publisher { paths: sender, look }, published)
}

impl Published {
    /// A path that is not known may have been published a moment ago, so it is looked up again
    /// before it is refused.
    async fn webhook(&self, path: &str, address: Option<IpAddr>) -> Option<Webhook> {
        let mut paths = self.paths.clone();
        let known = paths.borrow_and_update().webhook(path);
        if known.is_some() {
            return known;
        }
        let _waits = self.waiting.take(address)?;
        let learn = async {
            // A look that is under way may have begun before the path was published. The next one
            // has not.
            for _ in 0..2 {
                self.look.notify_one();
                paths.changed().await.ok()?;
                let learnt = paths.borrow_and_update().webhook(path);
                if learnt.is_some() {
                    return learnt;
                }
            }
            None
        };
        timeout(LONGEST_WAIT, learn).await.ok().flatten()
    }
}

impl Publisher {
    /// Tells the result of a look, also if it is the same as before.
    pub fn tell(&self, paths: Paths) {
        self.paths.send_replace(paths);
    }

    /// Returns when somebody called by an unknown path.
    ///
    /// Cancel-safe.
    pub async fn asked(&self) {
        self.look.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_file_has_one_secret_a_line() {
        let parse = |file: &str| Paths::parse(file.as_bytes());
        let paths = parse("0123456789abcdefghij\n\n  zyxwvutsrq9876543210 \r\n").unwrap();
        assert_eq!(paths.0.len(), 4);
        for (path, webhook) in [
            ("/mutate/0123456789abcdefghij", Some(Webhook::Mutate)),
            ("/validate/0123456789abcdefghij", Some(Webhook::Validate)),
            ("/validate/zyxwvutsrq9876543210", Some(Webhook::Validate)),
            ("/validate/0123456789abcdefghi", None),
            ("/validate/0123456789abcdefghij/", None),
            ("/validate", None),
            ("/", None),
        ] {
            assert_eq!(paths.webhook(path), webhook, "{path}");
        }
        assert!(parse(&"a".repeat(200)).is_ok());
        for (file, error) in [
            ("", SecretError::None),
            (" \n\n", SecretError::None),
            ("\n0123456789abcdefghi", SecretError::Length(2)),
            (&*"a".repeat(201), SecretError::Length(1)),
            ("0123456789abcdefghij\n0123456789abcdefghij/x", SecretError::Character(2)),
            ("0123456789ABCDEFGHIJ", SecretError::Character(1)),
            ("0123456789-bcdefghij", SecretError::Character(1)),
            ("0123456789abcdefghié", SecretError::Character(1)),
        ] {
            assert_eq!(parse(file), Err(error), "{file:?}");
        }
    }

    #[test]
    fn one_path_for_both_webhooks_calls_neither() {
        let [mutate, validate] = Webhook::ALL;
        for webhooks in [vec![mutate, validate], vec![validate, mutate], vec![mutate, validate, mutate]] {
            let paths = Paths::of(webhooks.iter().map(|webhook| ("/".to_owned(), *webhook)));
            assert_eq!(paths.webhook("/"), None, "{webhooks:?}");
        }
        assert_eq!(Paths::of(vec![("/".to_owned(), mutate); 2]).webhook("/"), Some(mutate));
    }

    fn paths(path: &str) -> Paths {
        Paths::of([(path.to_owned(), Webhook::Validate)])
    }

    #[tokio::test]
    async fn an_unknown_path_is_refused_after_a_look_that_began_after_the_call() {
        let (publisher, reader) = published();
        publisher.tell(paths("/validate/old"));
        assert_eq!(reader.webhook("/validate/old", None).now_or_never(), Some(Some(Webhook::Validate)));
        assert!(publisher.asked().now_or_never().is_none(), "a known path asks for nothing");

        let mut call = Box::pin(reader.webhook("/validate/new", None));
        assert!(call.as_mut().now_or_never().is_none());
        publisher.asked().now_or_never().unwrap();
        publisher.tell(paths("/validate/old"));
        assert!(call.as_mut().now_or_never().is_none(), "that look may have begun before the call");
        publisher.asked().now_or_never().unwrap();
        publisher.tell(paths("/validate/new"));
        assert_eq!(call.now_or_never(), Some(Some(Webhook::Validate)));

        let mut stranger = Box::pin(reader.webhook("/validate", None));
        for _ in 0..2 {
            assert!(stranger.as_mut().now_or_never().is_none());
            publisher.tell(paths("/validate/new"));
        }
        assert_eq!(stranger.now_or_never(), Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn without_another_look_an_unknown_path_is_refused_in_the_end() {
        let (_publisher, reader) = published();
        assert_eq!(reader.webhook("/validate", None).await, None);
    }

    #[tokio::test]
    async fn only_so_many_strangers_of_one_address_wait() {
        let (_publisher, reader) = published();
        let address = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let mut waiting = Vec::new();
        let refused = loop {
            let mut call = Box::pin(reader.webhook("/", address(1)));
            if let Some(refused) = call.as_mut().now_or_never() {
                break refused;
            }
            waiting.push(call);
        };
        assert_eq!((waiting.len(), refused), (21, None));
        assert!(reader.webhook("/", address(2)).now_or_never().is_none(), "another address may wait");
    }
}
