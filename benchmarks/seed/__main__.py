import argparse, json
from pathlib import Path
from . import _sweeps
p=argparse.ArgumentParser(); p.add_argument('what'); p.add_argument('--quick',action='store_true'); a=p.parse_args()
r={'law':_sweeps.size_law,'lambdas':_sweeps.lambdas}[a.what](a.quick)
f=Path(__file__).parent/'results'/f"{a.what}{'_quick' if a.quick else ''}.json"
f.write_text(json.dumps(r))
