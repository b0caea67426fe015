"""The aggregator: partials → results and usage, in one transaction an answer (rules 3 and 4). Its one key signs receipts: it opens nothing.

- `app`: records n in the layout, fences its predecessors, runs the transactional stage.
- `merger`: first outcome per part wins; parts in order; which outcomes are still out.
- `answering`: the answer and its receipt, made of outcomes or a verdict: pure.
- `credits`: gives credits back beside the loop.
- `layout`: N and every n ever used, in `epochs`; the names of transactional producers: pure but for reading.
"""
