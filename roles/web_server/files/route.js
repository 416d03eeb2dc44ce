// What nginx's own language cannot say: how large a file of this host's tree is, before it is opened. Runs on njs 0.7.
import fs from 'fs';

// Of the file that is asked about: small, its size in bytes, or '' when it is not there. Metadata and signatures are small.
function kind(r) {
    let path;
    try {
        path = decodeURIComponent(r.variables.route_path);
    } catch (e) {
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

export default {kind};
