//! Files that are reloaded: read at an interval and compared by content.
//!
//! The kubelet replaces a Secret or ConfigMap volume through a symlink, and a watch on a file in it
//! sees nothing after the first replacement. The last good content stays in use until new content
//! can be parsed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;

/// Time between two checks. The kubelet takes a minute or more to update a volume, so this adds
/// nothing that anyone would notice.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Why files could not be loaded.
#[derive(Debug, Error)]
pub enum ReloadError<E> {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{files}: {source}")]
    Parse { files: String, source: E },
}

/// The result of a check.
#[derive(Debug)]
pub enum Change<E> {
    /// The content is the same, or still cannot be read.
    None,
    /// New content is in use.
    Reloaded,
    /// The new content cannot be used; the last good content stays in use.
    Refused(ReloadError<E>),
}

type Parse<T, E> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, E> + Send + Sync>;

/// A value that is parsed from files.
pub struct Reloading<T, E> {
    paths: Vec<PathBuf>,
    parse: Parse<T, E>,
    /// The content of the last check, used or refused; `None` if reading failed.
    seen: Option<Vec<Vec<u8>>>,
    current: Arc<ArcSwap<T>>,
}

impl<T, E> Reloading<T, E> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// If a file cannot be read or parsed.
    pub fn load(
        paths: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, ReloadError<E>> {
        let contents = read_all(&paths)?;
        let value = parse(&contents).map_err(|source| ReloadError::Parse { files: named(&paths), source })?;
        Ok(Self {
            paths,
            parse: Box::new(parse),
            seen: Some(contents),
            current: Arc::new(ArcSwap::from_pointee(value)),
        })
    }

    /// The value in use, now and after every reload.
    pub fn current(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.current)
    }

    /// Reads the files again. The same bad content is refused only once.
    pub fn check(&mut self) -> Change<E> {
        let contents = match read_all(&self.paths) {
            Ok(contents) => contents,
            Err(error) if self.seen.is_some() => {
                self.seen = None;
                return Change::Refused(error);
            }
            Err(_) => return Change::None,
        };
        if self.seen.as_ref() == Some(&contents) {
            return Change::None;
        }
        let parsed = (self.parse)(&contents);
        self.seen = Some(contents);
        match parsed {
            Ok(value) => {
                self.current.store(Arc::new(value));
                Change::Reloaded
            }
            Err(source) => Change::Refused(ReloadError::Parse { files: named(&self.paths), source }),
        }
    }

    /// The paths of the files, for the log.
    pub fn files(&self) -> String {
        named(&self.paths)
    }
}

fn read_all<E>(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, ReloadError<E>> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| ReloadError::Read { path: path.clone(), source });
    paths.iter().map(read).collect()
}

fn named(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| Path::display(path).to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::{fs, num::ParseIntError};

    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<i32, ParseIntError> {
        String::from_utf8_lossy(&contents[0]).trim().parse()
    }

    #[test]
    fn bad_content_is_refused_once_and_the_last_good_content_stays_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        fs::write(&path, "1").unwrap();
        let mut reloading = Reloading::load(vec![path.clone()], number).unwrap();
        assert!(matches!(reloading.check(), Change::None));
        fs::write(&path, "2").unwrap();
        assert!(matches!(reloading.check(), Change::Reloaded));
        fs::write(&path, "two").unwrap();
        assert!(matches!(reloading.check(), Change::Refused(ReloadError::Parse { .. })));
        assert!(matches!(reloading.check(), Change::None));
        fs::remove_file(&path).unwrap();
        assert!(matches!(reloading.check(), Change::Refused(ReloadError::Read { .. })));
        assert!(matches!(reloading.check(), Change::None));
        assert_eq!(**reloading.current().load(), 2);
        fs::write(&path, "3").unwrap();
        assert!(matches!(reloading.check(), Change::Reloaded));
        assert_eq!(**reloading.current().load(), 3);
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let missing = Reloading::load(vec!["/nowhere/at/all".into()], number);
        assert!(missing.err().unwrap().to_string().contains("/nowhere/at/all"));
    }
}
