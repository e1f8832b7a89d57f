//! The source files of a crate, without those that hold only tests.

use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Item, Meta};

use crate::error::{Error, Result};

/// One file, read and parsed.
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) file: syn::File,
}

impl Source {
    fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let file = syn::parse_file(&text).map_err(|error| Error::malformed(&path, error))?;
        Ok(Self { path, text, file })
    }

    /// Is this where a crate begins?
    pub(super) fn is_root(&self) -> bool {
        self.path.ends_with("src/lib.rs") || self.path.ends_with("src/main.rs")
    }

    /// The files (without `.rs`) or folders of the modules that are declared here for tests only.
    fn test_modules(&self) -> Vec<PathBuf> {
        let folder = match stem(&self.path) {
            "lib" | "main" | "mod" => self.path.parent().unwrap_or(&self.path).to_owned(),
            _ => self.path.with_extension(""),
        };
        let modules = self.file.items.iter().filter_map(|item| match item {
            Item::Mod(module) if module.content.is_none() && is_test(&module.attrs) => {
                Some(folder.join(module.ident.to_string()))
            }
            _ => None,
        });
        modules.collect()
    }
}

/// All sources below a folder, in order.
pub(super) fn below(folder: &Path) -> Result<Vec<Source>> {
    let paths = paths(folder)?;
    let mut sources = paths.into_iter().map(Source::read).collect::<Result<Vec<_>>>()?;
    let tests: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    sources.retain(|source| {
        let module = source.path.with_extension("");
        !tests.iter().any(|test| module.starts_with(test))
    });
    Ok(sources)
}

fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            files.extend(paths(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Is this compiled for tests only?
pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => {
            let tokens = list.tokens.to_string();
            tokens == "test" || tokens.starts_with("all (test")
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_only_tests_use_are_left_out_wherever_they_are() {
        let folder = std::env::temp_dir().join(format!("xtask-sources-{}", std::process::id()));
        let files = [
            ("src/lib.rs", "mod a; #[cfg(test)] mod fake; mod tests;"),
            ("src/a.rs", "#[cfg(test)]\nmod tests;"),
            ("src/a/tests.rs", ""),
            ("src/fake/mod.rs", ""),
            ("src/fake/more.rs", ""),
            ("src/tests.rs", ""),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let sources = below(&folder).unwrap();
        let paths = sources.iter().map(|source| source.path.strip_prefix(&folder).unwrap());
        let names: Vec<_> = paths.map(|path| path.to_str().unwrap()).collect();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(names, ["src/a.rs", "src/lib.rs", "src/tests.rs"]);
    }
}
