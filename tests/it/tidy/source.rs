//! A source file as the house rules see it: its text, and its code without comments, texts and tests.

/// One file.
pub(super) struct Source {
    /// From the package's folder, with `/`.
    pub(super) path: String,
    /// As it stands.
    pub(super) text: String,
    /// The modules that it declares for tests only, as paths without `.rs`.
    pub(super) test_modules: Vec<String>,
    /// The text with blanks for all that does not run; each character stands where it stood.
    code: Vec<char>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut code = without_comments_and_texts(text);
        let folder = match path {
            "src/lib.rs" | "src/main.rs" => "src",
            _ => without_extension(path),
        };
        let test_modules =
            blank_tests(&mut code).into_iter().map(|module| format!("{folder}/{module}")).collect();
        Self { path: path.into(), text: text.into(), test_modules, code }
    }

    /// `retry` of `src/retry.rs` and of everything in `src/retry/`.
    pub(super) fn top_module(&self) -> &str {
        self.below_src().split('/').next().unwrap_or_default()
    }

    /// The file's own module and those that it lies in, as paths without `.rs`.
    pub(super) fn modules(&self) -> impl Iterator<Item = String> {
        let path = without_extension(&self.path);
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        ends.map(|end| path[..end].to_owned())
    }

    /// The top-level modules that the code names, each with its line. A path through `super` counts where it
    /// reaches the root.
    pub(super) fn imports(&self) -> Vec<(usize, String)> {
        let depth = self.below_src().split('/').count();
        let mut imports = Vec::new();
        for at in self.places("crate::") {
            imports.extend(self.heads(at + "crate::".len()));
        }
        for at in self.places("super::") {
            let after = "super::".len();
            let is_first = !self.code[..at].ends_with(&['s', 'u', 'p', 'e', 'r', ':', ':']);
            let mut end = at;
            while starts_with(&self.code[end..], "super::") {
                end += after;
            }
            if is_first && (end - at) / after >= depth + self.inner_modules(at) {
                imports.extend(self.heads(end));
            }
        }
        imports.sort();
        imports
    }

    /// Every path that the code names from `crate` or `super`, from the root on and without `crate`.
    pub(super) fn paths(&self) -> Vec<Vec<String>> {
        let own: Vec<_> = self.below_src().split('/').map(str::to_owned).collect();
        let mut paths = Vec::new();
        for at in self.places("crate::") {
            self.branches(at + "crate::".len(), &[], &mut paths);
        }
        for at in self.places("super::") {
            let after = "super::".len();
            if self.code[..at].ends_with(&['s', 'u', 'p', 'e', 'r', ':', ':']) {
                continue;
            }
            let mut end = at;
            while starts_with(&self.code[end..], "super::") {
                end += after;
            }
            // Up from a module inside the file is not yet up from the file.
            let up = ((end - at) / after).saturating_sub(self.inner_modules(at));
            self.branches(end, &own[..own.len().saturating_sub(up)], &mut paths);
        }
        paths
    }

    /// Adds the paths of the tree of names that begins at `at`, each after `prefix`; gives the place behind it.
    fn branches(&self, mut at: usize, prefix: &[String], paths: &mut Vec<Vec<String>>) -> usize {
        let mut path = prefix.to_vec();
        loop {
            match self.code.get(at) {
                Some('{') => {
                    at += 1;
                    while self.code.get(at).is_some_and(|character| *character != '}') {
                        let next = self.branches(at, &path, paths);
                        at = next.max(at + 1);
                    }
                    return at + 1;
                }
                Some(character) if is_word(*character) => {
                    let name: String = self.code[at..].iter().take_while(|c| is_word(**c)).collect();
                    at += name.chars().count();
                    path.push(name);
                    if !starts_with(&self.code[at..], "::") {
                        break;
                    }
                    at += "::".len();
                }
                _ => break,
            }
        }
        if path.len() > prefix.len() {
            paths.push(path);
        }
        at
    }

    /// The module that the file belongs to: of the first level, or of the second.
    pub(super) fn second_level(&self) -> String {
        self.below_src().split('/').take(2).collect::<Vec<_>>().join("::")
    }

    /// How many modules inside the file the place lies in.
    fn inner_modules(&self, at: usize) -> usize {
        let holds = |begin: &usize| {
            let module = &self.code[*begin..];
            let head = module.iter().position(|character| matches!(character, '{' | ';'));
            head.is_some_and(|head| module[head] == '{')
                && (*begin..begin + item_length(module)).contains(&at)
        };
        self.places("mod").iter().filter(|begin| holds(begin)).count()
    }

    /// The lines on which the code holds `word`, and not merely as part of a longer one.
    pub(super) fn lines_with(&self, word: &str) -> Vec<usize> {
        self.places(word).into_iter().map(|at| self.line(at)).collect()
    }

    fn below_src(&self) -> &str {
        without_extension(self.path.strip_prefix("src/").unwrap_or(&self.path))
    }

    fn places(&self, word: &str) -> Vec<usize> {
        let length = word.chars().count();
        let is_bound = |left: Option<&char>, right: Option<&char>| {
            !(left.is_some_and(|left| is_word(*left)) && right.is_some_and(|right| is_word(*right)))
        };
        (0..self.code.len())
            .filter(|at| {
                let (end, code) = (at + length, &self.code);
                starts_with(&code[*at..], word)
                    && is_bound(at.checked_sub(1).and_then(|before| code.get(before)), code.get(*at))
                    && is_bound(code.get(end - 1), code.get(end))
            })
            .collect()
    }

    /// The first names of a path, or of each path of a group, that begins at `at`.
    fn heads(&self, at: usize) -> Vec<(usize, String)> {
        let mut heads = Vec::new();
        let (mut at, mut depth, mut is_head) = (at, 0_u32, true);
        while let Some(character) = self.code.get(at) {
            match character {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' if depth == 1 => is_head = true,
                _ if is_word(*character) => {
                    let name: String = self.code[at..].iter().take_while(|c| is_word(**c)).collect();
                    at += name.chars().count() - 1;
                    if is_head && depth <= 1 {
                        heads.push((self.line(at), name));
                    }
                    is_head = false;
                }
                _ => {}
            }
            if depth == 0 && (!is_head || *character == '}') {
                break;
            }
            at += 1;
        }
        heads
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].iter().filter(|character| **character == '\n').count()
    }
}

fn without_extension(path: &str) -> &str {
    path.strip_suffix(".rs").unwrap_or(path)
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn starts_with(code: &[char], word: &str) -> bool {
    let mut rest = code.iter();
    word.chars().all(|character| rest.next() == Some(&character))
}

/// Puts blanks for comments and for the texts and characters of literals.
fn without_comments_and_texts(text: &str) -> Vec<char> {
    let text: Vec<_> = text.chars().collect();
    let mut code = text.clone();
    let mut at = 0;
    while at < text.len() {
        let end = at + opaque_length(&text, at);
        if end > at {
            blank(&mut code[at..end]);
            at = end;
        } else {
            at += 1;
        }
    }
    code
}

/// The length of the comment or literal that begins at `at`; zero if none does.
fn opaque_length(text: &[char], at: usize) -> usize {
    let rest = &text[at..];
    let length = match rest {
        ['/', '/', ..] => rest.iter().position(|character| *character == '\n'),
        ['/', '*', ..] => Some(block_comment_length(rest)),
        ['"', ..] => Some(quoted_length(rest, '"')),
        ['\'', '\\', ..] => Some(quoted_length(rest, '\'')),
        ['\'', _, '\'', ..] => Some(3),
        ['r', '"' | '#', ..] if !at.checked_sub(1).is_some_and(|before| is_word_but_prefix(text, before)) => {
            Some(raw_length(rest))
        }
        _ => Some(0),
    };
    length.unwrap_or(rest.len())
}

/// Whether the character before an `r` makes it part of a name; `br` and `cr` begin a literal.
fn is_word_but_prefix(text: &[char], before: usize) -> bool {
    let is_prefix = matches!(text[before], 'b' | 'c')
        && !before.checked_sub(1).is_some_and(|earlier| is_word(text[earlier]));
    is_word(text[before]) && !is_prefix
}

fn block_comment_length(text: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0_u32);
    while at < text.len() {
        match &text[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

fn quoted_length(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Zero for a raw name such as `r#type`.
fn raw_length(text: &[char]) -> usize {
    let hashes = text[1..].iter().take_while(|character| **character == '#').count();
    if text.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let begin = hashes + 2;
    let end = (begin..text.len()).find(|at| starts_with(&text[*at..], &close));
    end.map_or(text.len(), |end| end + close.len())
}

/// Puts blanks for each item under `#[cfg(test)]`; gives the names of the modules among them that are files.
fn blank_tests(code: &mut [char]) -> Vec<String> {
    const MARK: &str = "#[cfg(test)]";
    let mut modules = Vec::new();
    for at in 0..code.len() {
        if starts_with(&code[at..], MARK) {
            let end = at + MARK.len() + item_length(&code[at + MARK.len()..]);
            let item: String = code[at + MARK.len()..end].iter().collect();
            let words: Vec<_> = item.split_whitespace().collect();
            if let [.., "mod", name] = words[..]
                && let Some(name) = name.strip_suffix(';')
            {
                modules.push(name.to_owned());
            }
            blank(&mut code[at..end]);
        }
    }
    modules
}

/// To the `;` or the `}` that ends an item, its other attributes included.
fn item_length(code: &[char]) -> usize {
    let mut depth = 0_u32;
    for (at, character) in code.iter().enumerate() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(character, ';' | '}') {
            return at + 1;
        }
    }
    code.len()
}

fn blank(code: &mut [char]) {
    for character in code {
        if *character != '\n' {
            *character = ' ';
        }
    }
}
