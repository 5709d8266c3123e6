//! Files that change under us: read again on a timer and compared by content.
//!
//! A Secret or ConfigMap volume is swapped by a symlink, and a watch on a file in it goes deaf after the first swap. What was
//! read from the files stays in force until something better can be read from them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;

/// How often files are looked at. The kubelet takes a minute or more to bring a change into a volume, so this adds nothing
/// that anyone would notice.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Why files could not be taken over.
#[derive(Debug, Error)]
pub enum ReloadError<E> {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{files}: {source}")]
    Parse { files: String, source: E },
}

/// What came of looking at the files.
#[derive(Debug)]
pub enum Change<E> {
    /// Nothing new, for good or bad.
    None,
    /// New content, in force now.
    Taken,
    /// Something that cannot be used; what was in force stays.
    Refused(ReloadError<E>),
}

type Parse<T, E> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, E> + Send + Sync>;

/// A value that is read from files, and the files.
pub struct Reloading<T, E> {
    paths: Vec<PathBuf>,
    parse: Parse<T, E>,
    /// The content last looked at, used or refused; `None` after a failure to read.
    seen: Option<Vec<Vec<u8>>>,
    current: Arc<ArcSwap<T>>,
}

impl<T, E> Reloading<T, E> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// If one cannot be read, or their content cannot be used.
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

    /// The value in force, now and after every reload.
    pub fn current(&self) -> Arc<ArcSwap<T>> {
        Arc::clone(&self.current)
    }

    /// Looks at the files again. The same bad content is refused once only.
    pub fn look(&mut self) -> Change<E> {
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
                Change::Taken
            }
            Err(source) => Change::Refused(ReloadError::Parse { files: named(&self.paths), source }),
        }
    }

    /// The files, for people.
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
    fn bad_content_keeps_the_last_good_one_and_is_refused_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        fs::write(&path, "1").unwrap();
        let mut reloading = Reloading::load(vec![path.clone()], number).unwrap();
        assert!(matches!(reloading.look(), Change::None));
        fs::write(&path, "2").unwrap();
        assert!(matches!(reloading.look(), Change::Taken));
        fs::write(&path, "two").unwrap();
        assert!(matches!(reloading.look(), Change::Refused(ReloadError::Parse { .. })));
        assert!(matches!(reloading.look(), Change::None));
        fs::remove_file(&path).unwrap();
        assert!(matches!(reloading.look(), Change::Refused(ReloadError::Read { .. })));
        assert!(matches!(reloading.look(), Change::None));
        assert_eq!(**reloading.current().load(), 2);
        fs::write(&path, "3").unwrap();
        assert!(matches!(reloading.look(), Change::Taken));
        assert_eq!(**reloading.current().load(), 3);
    }

    #[test]
    fn a_start_without_the_file_names_it() {
        let missing = Reloading::load(vec!["/nowhere/at/all".into()], number);
        assert!(missing.err().unwrap().to_string().contains("/nowhere/at/all"));
    }
}
