//! The layers of `docs/ARCHITECTURE.md`, held against the `use` declarations of the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Item, ItemUse, UseTree, Visibility};

/// A module path below the crate, such as `["adapter", "session"]`.
type ModulePath = Vec<String>;

/// One source file.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// Names that it defines itself.
    items: BTreeSet<String>,
    /// Names that it passes on from elsewhere, by the full path that they come from.
    reexports: BTreeMap<String, Vec<String>>,
    /// Full paths that it names in `use` declarations.
    uses: Vec<Vec<String>>,
    /// First names of these paths, among them those of other crates.
    crates: BTreeSet<String>,
}

/// The modules of the crate, and which file imports from which.
struct Imports {
    modules: BTreeMap<ModulePath, Module>,
}

impl Imports {
    fn of(src: &Path) -> Self {
        let mut imports = Self {
            modules: BTreeMap::new(),
        };
        imports.read(&src.join("lib.rs"), src, Vec::new());
        imports
    }

    fn read(&mut self, file: &Path, folder: &Path, path: ModulePath) {
        let text = fs::read_to_string(file).unwrap();
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut module = Module {
            file: file.to_owned(),
            ..Module::default()
        };
        for item in parsed.items.iter().filter(|item| !is_for_tests(item)) {
            match item {
                Item::Mod(inner) if inner.content.is_none() => {
                    let name = inner.ident.to_string();
                    let inner_folder = folder.join(&name);
                    let beside = folder.join(format!("{name}.rs"));
                    let file = match beside.exists() {
                        true => beside,
                        false => inner_folder.join("mod.rs"),
                    };
                    let mut inner_path = path.clone();
                    inner_path.push(name);
                    self.read(&file, &inner_folder, inner_path);
                }
                Item::Use(declaration) => module.declare(declaration, &path),
                other => module.items.extend(name_of(other)),
            }
        }
        self.modules.insert(path, module);
    }

    /// The file that defines what a full path names; `None` outside the crate.
    fn file_of(&self, full: &[String]) -> Option<&Path> {
        let depth = (0..=full.len())
            .rev()
            .find(|depth| self.modules.contains_key(&full[..*depth]))?;
        let module = &self.modules[&full[..depth]];
        let Some(name) = full.get(depth) else {
            return Some(&module.file);
        };
        if let Some(origin) = module.reexports.get(name) {
            let rest = full[depth + 1..].iter().cloned();
            let origin: Vec<String> = origin.iter().cloned().chain(rest).collect();
            return self.file_of(&origin);
        }
        (module.items.contains(name) || name == "*").then_some(&*module.file)
    }

    /// Which file imports from which others, by path below `src`.
    fn arrows(&self, src: &Path) -> BTreeMap<String, BTreeSet<String>> {
        let name = |file: &Path| file.strip_prefix(src).unwrap().display().to_string();
        let mut arrows = BTreeMap::new();
        for module in self.modules.values() {
            let targets = module.uses.iter().filter_map(|full| self.file_of(full));
            let others = targets.filter(|file| *file != module.file);
            arrows.insert(name(&module.file), others.map(name).collect());
        }
        arrows
    }
}

impl Module {
    fn declare(&mut self, declaration: &ItemUse, path: &[String]) {
        let is_passed_on = !matches!(declaration.vis, Visibility::Inherited);
        let mut leaves = Vec::new();
        collect(&declaration.tree, Vec::new(), &mut leaves);
        for (written, name) in leaves {
            self.crates.extend(written.first().cloned());
            let Some(full) = resolve(&written, path) else {
                continue;
            };
            if is_passed_on {
                self.reexports.insert(name, full.clone());
            }
            self.uses.push(full);
        }
    }
}

fn collect(tree: &UseTree, mut before: Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    match tree {
        UseTree::Path(path) => {
            before.push(path.ident.to_string());
            collect(&path.tree, before, leaves);
        }
        UseTree::Name(name) if name.ident == "self" => {
            let last = before.last().cloned().unwrap_or_default();
            leaves.push((before, last));
        }
        UseTree::Name(name) => {
            before.push(name.ident.to_string());
            leaves.push((before, name.ident.to_string()));
        }
        UseTree::Rename(rename) => {
            before.push(rename.ident.to_string());
            leaves.push((before, rename.rename.to_string()));
        }
        UseTree::Glob(_) => {
            before.push("*".to_owned());
            leaves.push((before, "*".to_owned()));
        }
        UseTree::Group(group) => {
            for inner in &group.items {
                collect(inner, before.clone(), leaves);
            }
        }
    }
}

/// The path from the root of the crate. A first name that is none of its keywords is taken for a
/// module beside; other crates are sorted out when no file is found.
fn resolve(written: &[String], here: &[String]) -> Option<Vec<String>> {
    let (first, rest) = written.split_first()?;
    let mut full: Vec<String> = match first.as_str() {
        "crate" => Vec::new(),
        "self" => here.to_vec(),
        "super" => here.split_last()?.1.to_vec(),
        "std" | "core" => return None,
        _ => [here, std::slice::from_ref(first)].concat(),
    };
    for name in rest {
        match name.as_str() {
            "super" => drop(full.pop()),
            "self" => {}
            name => full.push(name.to_owned()),
        }
    }
    Some(full)
}

fn is_for_tests(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Mod(item) => item.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Groups of files that can all reach each other by imports.
fn cycles(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> = arrows[from].iter().collect();
        while let Some(file) = open.pop() {
            if seen.insert(file.clone()) {
                open.extend(&arrows[file]);
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        arrows.keys().map(|file| (file, reach(file))).collect();
    let mut cycles: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, seen) in &reached {
        let mutual = seen.iter().filter(|other| reached[*other].contains(*file));
        let group: BTreeSet<String> = mutual.cloned().collect();
        if group.contains(*file) {
            cycles.insert(group);
        }
    }
    cycles.into_iter().collect()
}

fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    Imports::of(&src).arrows(&src)
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let arrows = arrows();
    let found = cycles(&arrows);
    let shown: Vec<String> = found
        .iter()
        .map(|group| {
            let inside = |file: &String| {
                let to: Vec<_> = arrows[file].intersection(group).cloned().collect();
                format!("  {file} -> {}", to.join(", "))
            };
            group.iter().map(inside).collect::<Vec<_>>().join("\n")
        })
        .collect();
    assert!(found.is_empty(), "{}", shown.join("\n\n"));
}

/// The folders of the adapter, and which others each may import from.
const LAYERS: [(&str, &[&str]); 7] = [
    (
        "http",
        &["azure", "session", "backend", "files", "telemetry", "model"],
    ),
    (
        "azure",
        &["session", "backend", "files", "telemetry", "model"],
    ),
    ("session", &["backend", "files", "telemetry", "model"]),
    ("backend", &["files", "telemetry", "model"]),
    ("files", &["model"]),
    ("telemetry", &["model"]),
    ("model", &[]),
];

/// Imports that go up, or from one side of Piston's wire to the other.
fn forbidden(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let layer_of = |file: &str| -> Option<usize> {
        let folder = file.strip_prefix("adapter/")?.split('/').next()?;
        LAYERS.iter().position(|(layer, _)| *layer == folder)
    };
    let side = |file: &str| {
        ["adapter/", "engine/"]
            .into_iter()
            .find(|s| file.starts_with(s))
    };
    let mut found = Vec::new();
    for (from, targets) in arrows {
        for to in targets {
            let is_upward = match (layer_of(from), layer_of(to)) {
                (Some(from), Some(to)) => from != to && !LAYERS[from].1.contains(&LAYERS[to].0),
                _ => false,
            };
            let (here, there) = (side(from), side(to));
            if is_upward || (here.is_some() && there.is_some() && here != there) {
                found.push(format!("{from} -> {to}"));
            }
        }
    }
    found
}

#[test]
fn imports_go_down_the_layers() {
    let found = forbidden(&arrows());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Below `http` nobody knows of HTTP, and below `azure` nobody of Azure.
#[test]
fn what_a_layer_must_not_know_it_does_not_import() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let imports = Imports::of(&src);
    let mut found = Vec::new();
    for module in imports.modules.values() {
        let file = module
            .file
            .strip_prefix(&src)
            .unwrap()
            .display()
            .to_string();
        let is_below_azure = ["session", "backend", "files", "telemetry", "model"]
            .iter()
            .any(|layer| file.starts_with(&format!("adapter/{layer}/")));
        let crates = ["http", "hyper", "hyper_util", "http_body_util"];
        if is_below_azure && crates.iter().any(|name| module.crates.contains(*name)) {
            found.push(file);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_planted_import_is_found() {
    let mut arrows = arrows();
    assert!(arrows.contains_key("adapter/session/registry.rs"));
    let mut plant = |from: &str, to: &str| {
        arrows.get_mut(from).unwrap().insert(to.to_owned());
        let found = (cycles(&arrows).len(), forbidden(&arrows).len());
        arrows.get_mut(from).unwrap().remove(to);
        found
    };
    let upward = plant("adapter/model/timings.rs", "adapter/session/registry.rs");
    assert_eq!(upward, (1, 1));
    let across = plant("engine/request.rs", "adapter/mod.rs");
    assert_eq!(across.1, 1);
}
