//! A page of Markdown as a reader meets it: its blocks of code, links, anchors and spans of code.

use std::path::Path;

/// One page.
pub(super) struct Page {
    /// From the package's folder, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

/// A fenced block.
pub(super) struct Block {
    /// Where it begins, as `PATH:LINE`.
    pub(super) place: String,
    /// The words of its fence, which commas part: the language, then marks of ours.
    pub(super) info: Vec<String>,
    pub(super) text: String,
}

impl Block {
    pub(super) fn language(&self) -> &str {
        self.info.first().map_or("", String::as_str)
    }
}

impl Page {
    pub(super) fn read(root: &Path, path: &Path) -> Self {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        Self { path: name, text: std::fs::read_to_string(path).unwrap() }
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    open = Some(Block {
                        place: format!("{}:{}", self.path, number + 1),
                        info: info.split(',').map(|word| word.trim().to_owned()).collect(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block has no end", self.path);
        blocks
    }

    /// The lines outside blocks.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut is_code = false;
        self.text.lines().filter(move |line| {
            let is_fence = line.starts_with("```");
            is_code ^= is_fence;
            !is_fence && !is_code
        })
    }

    /// Where its links and pictures lead.
    pub(super) fn links(&self) -> Vec<&str> {
        let ends = |line| str::split(line, "](").skip(1).filter_map(|rest| rest.split_once(')'));
        self.prose().flat_map(ends).map(|(target, _)| target).collect()
    }

    /// What stands between single backquotes.
    pub(super) fn spans(&self) -> Vec<&str> {
        self.prose().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
    }

    /// The anchors of its headings, as GitHub and mdBook make them.
    pub(super) fn anchors(&self) -> Vec<String> {
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = |character: &char| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}
