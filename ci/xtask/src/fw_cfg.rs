//! `--fw-cfg name=NAME,string=TEXT` or `name=NAME,file=PATH`, as QEMU's `-fw_cfg`.
//!
//! A file reaches the image as a boot module whose arguments say its name; a text becomes a
//! file first.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anchorite_abi::FW_CFG_WORD;

use crate::error::{Error, Result};
use crate::guest::without_blanks;
use crate::workspace::OUT;

/// One file of the configuration device.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FwCfg {
    name: String,
    contents: Contents,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Contents {
    Text(String),
    File(PathBuf),
}

impl FwCfg {
    /// Reads the option. A comma belongs to the text of `string=`.
    pub(crate) fn parse(text: &str) -> std::result::Result<Self, String> {
        let wanted = "say name=NAME,string=TEXT or name=NAME,file=PATH, the name without blanks";
        let (name, contents) = text
            .strip_prefix("name=")
            .and_then(|rest| rest.split_once(','))
            .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
            .ok_or(wanted)?;
        let contents = match contents.split_once('=') {
            Some(("string", text)) => Contents::Text(text.into()),
            Some(("file", path)) => Contents::File(path.into()),
            _ => return Err(wanted.into()),
        };
        Ok(Self { name: name.into(), contents })
    }

    /// What the module's arguments are.
    pub(crate) fn arguments(&self) -> String {
        format!("{FW_CFG_WORD}{}", self.name)
    }

    /// The module's file; a relative one is looked for in `from`.
    pub(crate) fn path(&self, from: &Path) -> Result<PathBuf> {
        match &self.contents {
            Contents::Text(text) => written(text),
            Contents::File(path) => {
                let path = from.join(path);
                if !path.is_file() {
                    return Err(Error::refused(path.display(), "no such file for --fw-cfg"));
                }
                without_blanks(&path)
            }
        }
    }
}

impl TryFrom<String> for FwCfg {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text)
    }
}

/// A file with this text; the same for all who ask for the same, so one that is there is not
/// written again under somebody who reads it.
fn written(text: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = Path::new(OUT).join("files");
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let path = folder.join(format!("fw_cfg-{:016x}", hasher.finish()));
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(path);
    }
    let scratch = path.with_extension(std::process::id().to_string());
    fs::write(&scratch, text).map_err(Error::io(&scratch))?;
    fs::rename(&scratch, &path).map_err(Error::io(&path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_may_hold_commas_and_equals_signs() {
        let file = FwCfg::parse("name=opt/a,string=b,c=d").unwrap();
        assert_eq!(file.arguments(), "fw_cfg=opt/a");
        assert_eq!(file.contents, Contents::Text("b,c=d".into()));
        let file = FwCfg::parse("name=opt/a,file=x/y").unwrap();
        assert_eq!(file.contents, Contents::File("x/y".into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        for text in ["", "opt/a", "name=opt/a", "name=,string=b", "name=a b,string=c", "name=a,b"] {
            assert!(FwCfg::parse(text).unwrap_err().contains("name=NAME"), "{text}");
        }
    }
}
