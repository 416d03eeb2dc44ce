// What nginx's own language cannot say: how large a file of this host's tree is, before it is opened, and how old one is.
// Runs on njs 0.7.
import fs from 'fs';

// Of the file that is asked about: small, its size in bytes, or '' when it is not there. Metadata and signatures are small.
function kind(r) {
    let path;
    try {
        path = decodeURIComponent(r.variables.route_path);
    } catch (e) {
        return '';
    }
    // An encoded path may lead out of the tree, and /route tells of any.
    if (/(^|\/)\.\.?(\/|$)/.test(path)) {
        return '';
    }
    if (/\.(metadata|asc)$/.test(path)) {
        return 'small';
    }
    try {
        const found = fs.statSync(r.variables.served + path);
        return !found.isFile() ? '' : found.size <= Number(r.variables.route_small) ? 'small' : String(found.size);
    } catch (e) {
        return '';
    }
}

// What a mirror's answer says of its file: the same as ours, another one, or small, where this host has none to compare it with.
function answer(number) {
    return (r) => {
        const kind = r.variables.route_kind;
        const size = r.variables['route_found_' + number];
        if (kind) {
            return size === kind ? 'same' : 'other';
        }
        return size && Number(size) <= Number(r.variables.route_small) ? 'small' : 'same';
    };
}

// How old a file is, in seconds; null where there is none.
function age(path) {
    try {
        return Math.round((Date.now() - fs.statSync(path).mtimeMs) / 1000);
    } catch (e) {
        return null;
    }
}
// Of what /route tells by: `mirrorfleet route` touches its maps each time that all it goes by says the same still. A clock
// that was set back makes them as unsure.
const routesAge = (r) => age(r.variables.route_maps);
// Of this host's tree: a sync that brought all that upstream had writes it. A cache has none.
const treeAge = (r) => age(r.variables.served + '/last-modified');

function stale(r) {
    const seconds = routesAge(r);
    return String(seconds === null || Math.abs(seconds) > 120);
}

export default {kind, age: (r) => String(routesAge(r)), tree_age: (r) => String(treeAge(r)), stale, answer_0: answer(0), answer_1: answer(1), answer_2: answer(2), answer_3: answer(3)};
