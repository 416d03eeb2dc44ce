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

// How many seconds ago a moment was that is read from a file; null where there is none.
function age(moment) {
    try {
        const seconds = Math.round((Date.now() - moment()) / 1000);
        return isNaN(seconds) ? null : seconds;
    } catch (e) {
        return null;
    }
}
// Of what /route tells by: `mirrorfleet route` touches its maps each time that all it goes by says the same still. A clock
// that was set back makes them as unsure.
const routesAge = (r) => age(() => fs.statSync(r.variables.route_maps).mtimeMs);
// Of this host's tree: when whose index it is last had everything, which a tier further up may say (PEP 381). A cache has none.
const treeAge = (r) => age(() => Date.parse(fs.readFileSync(r.variables.served + '/last-modified', 'utf8')
    .replace(/^(....)(..)(..)T([0-9:]{8})\s*$/, '$1-$2-$3T$4Z')));

function stale(r) {
    const seconds = routesAge(r);
    return String(seconds === null || Math.abs(seconds) > 120);
}

export default {kind, age: (r) => String(routesAge(r)), tree_age: (r) => String(treeAge(r)), stale, answer_0: answer(0), answer_1: answer(1), answer_2: answer(2), answer_3: answer(3)};
