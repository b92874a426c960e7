//! Dependencies between the modules of this crate point one way.
//!
//! The nodes are the modules of the crate, and, within each folder, its modules. A folder's `mod.rs` belongs to the folder:
//! it may define what its modules share and name what they offer. Its modules may not depend on each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Graph = BTreeMap<String, BTreeSet<String>>;

/// A source file: its module path, and the paths of modules and items that it names.
struct Source {
    module: Vec<String>,
    names: Vec<Vec<String>>,
}

/// All source files under a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file, without comments and without its tests at the end.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths in a use tree, `a::{b, c::d}`, up to the end of the statement.
fn paths(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    match tree.find('{') {
        Some(open) => {
            let mut prefix = prefix.to_vec();
            prefix.extend(tree[..open].split("::").map(str::trim).filter(|part| !part.is_empty()).map(String::from));
            let inner = &tree[open + 1..tree.rfind('}').unwrap()];
            let (mut depth, mut start) = (0, 0);
            for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
                match letter {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        if !inner[start..at].trim().is_empty() {
                            paths(&inner[start..at], &prefix, found);
                        }
                        start = at + 1;
                    }
                    _ => {}
                }
            }
        }
        None => {
            let mut path = prefix.to_vec();
            let name = tree.split(" as ").next().unwrap_or_default();
            path.extend(name.split("::").map(|part| part.trim().to_string()));
            found.push(path);
        }
    }
}

/// Every path of a file that begins with `crate` or `super`: those of `use`, and those within the code.
fn names(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
                continue;
            }
            let in_use = code[..at].trim_end().ends_with("use");
            let ends = |letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':');
            let end = if in_use { code[at..].find(';') } else { code[at..].find(ends) };
            paths(code[at..at + end.unwrap_or(code.len() - at)].trim_end_matches(':'), &[], &mut found);
        }
    }
    found
}

fn read(root: &Path) -> Vec<Source> {
    let mut list = Vec::new();
    files(root, &mut list);
    let source = |file: &PathBuf| {
        let relative = file.strip_prefix(root).unwrap().with_extension("");
        let mut module: Vec<String> =
            relative.iter().map(|part| part.to_str().unwrap().to_string()).filter(|part| part != "mod").collect();
        if module == ["lib"] {
            module.clear();
        }
        // Files that a `path` attribute names: `unpack_x86.rs` is `unpack::x86`.
        if let Some(parent) = module.last().and_then(|name| name.strip_suffix("_x86")).map(String::from) {
            module.splice(module.len() - 1.., [parent, "x86".into()]);
        }
        Source { module, names: names(&code(&fs::read_to_string(file).unwrap())) }
    };
    list.iter().map(source).collect()
}

/// The absolute path that a name stands for in a module.
fn absolute(module: &[String], name: &[String]) -> Vec<String> {
    let supers = name.iter().take_while(|part| *part == "super").count();
    if supers == 0 {
        return name[1..].to_vec();
    }
    let base = &module[..module.len().saturating_sub(supers)];
    base.iter().chain(&name[supers..]).cloned().collect()
}

/// For each folder (the crate's is empty), which of its modules depend on which.
fn graphs(sources: &[Source]) -> BTreeMap<Vec<String>, Graph> {
    let modules: BTreeSet<&[String]> = sources.iter().map(|source| &source.module[..]).collect();
    let mut graphs: BTreeMap<Vec<String>, Graph> = BTreeMap::new();
    for source in sources {
        for name in &source.names {
            let target = absolute(&source.module, name);
            let shared = source.module.iter().zip(&target).take_while(|(a, b)| a == b).count();
            // The folder where both part; within it, the target must be a module, not an item of the folder itself.
            if shared < source.module.len() && target.get(..=shared).is_some_and(|module| modules.contains(module)) {
                let graph = graphs.entry(target[..shared].to_vec()).or_default();
                graph.entry(source.module[shared].clone()).or_default().insert(target[shared].clone());
            }
        }
    }
    graphs
}

/// A circle in a graph: its modules, the first again at the end.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(graph: &Graph, node: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|other| other == node) {
            return Some(path[at..].iter().cloned().chain([node.to_string()]).collect());
        }
        if done.contains(node) {
            return None;
        }
        path.push(node.to_string());
        let found = graph.get(node).and_then(|next| next.iter().find_map(|next| visit(graph, next, path, done)));
        path.pop();
        done.insert(node.to_string());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| visit(graph, node, &mut Vec::new(), &mut done))
}

#[test]
fn no_module_depends_on_itself_by_way_of_others() {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let graphs = graphs(&sources);
    let crate_graph = &graphs[&Vec::new()];
    assert!(crate_graph["model"].contains("passes") && crate_graph["network"].contains("adapter"), "{crate_graph:?}");
    let circles: Vec<_> = graphs
        .iter()
        .filter_map(|(folder, graph)| Some(format!("{}: {:?}", folder.join("::"), circle(graph)?)))
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn circles_are_found() {
    let file = |module: &str, text: &str| Source {
        module: module.split("::").map(String::from).collect(),
        names: names(&code(text)),
    };
    let find = |sources: &[Source]| graphs(sources).values().find_map(circle);
    let (a, b) = (file("a", "use crate::b::{self, c::{D}};"), file("b::c", "// crate::a::X\nuse crate::e::E;"));
    assert_eq!(find(&[a, b, file("e", "")]), None);
    let (a, b) = (file("a", "use crate::{e::F, b::c::D};"), file("b::c", "fn f() -> crate::a::X {}"));
    assert_eq!(find(&[a, b, file("b", ""), file("e", "")]), Some(["a", "b", "a"].map(String::from).to_vec()));
    let (c, d) = (file("b::c", "use super::d::D;"), file("b::d", "use super::c::C;"));
    assert_eq!(find(&[c, d, file("b", "")]), Some(["c", "d", "c"].map(String::from).to_vec()));
}

#[test]
fn only_the_folder_of_adapters_knows_their_kinds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut list = Vec::new();
    files(&root, &mut list);
    list.retain(|file| !file.starts_with(root.join("adapter")));
    // `model` names the settings for its callers.
    let knows = |file: &PathBuf| {
        let code = code(&fs::read_to_string(file).unwrap());
        code.replace("pub use crate::adapter::{AdapterConfig, BASE, DEFAULT, LoraConfig, module_paths};", "")
            .contains("Lora")
    };
    assert_eq!(list.into_iter().filter(knows).collect::<Vec<_>>(), Vec::<PathBuf>::new());
}
