/* SPDX-License-Identifier: Apache-2.0 */
'use strict';
/* Draws what the page's data block holds; colours are the style sheet's, so that light and dark
 * (and a change between them while the page is open) need nothing here but a redraw. */
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
  const charts = [];
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;

  function format(value, digits) {
    return value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  /* Whiskers from the smallest to the largest run, and the ratio to QEMU behind them. */
  const spread = {
    id: 'spread',
    afterDatasetsDraw(chart) {
      const figure = chart.options.figure;
      if (!figure) return;
      const { ctx, scales: { x } } = chart;
      ctx.save();
      ctx.lineWidth = 1.5;
      ctx.font = `12px ${Chart.defaults.font.family}`;
      ctx.textBaseline = 'middle';
      chart.getDatasetMeta(0).data.forEach((bar, i) => {
        const row = figure.rows[i];
        if (row.median === null) {
          ctx.fillStyle = colour('soft');
          ctx.fillText('no figure', x.getPixelForValue(0) + 6, bar.y);
          return;
        }
        const [low, high] = [row.low, row.high].map(v => x.getPixelForValue(v));
        ctx.strokeStyle = colour('ink');
        ctx.beginPath();
        ctx.moveTo(low, bar.y); ctx.lineTo(high, bar.y);
        for (const end of [low, high]) { ctx.moveTo(end, bar.y - 4); ctx.lineTo(end, bar.y + 4); }
        if (row.high > row.low) ctx.stroke();
        ctx.fillStyle = colour('ink');
        const ratio = row.ratio === null ? '' : `  ${format(row.ratio, 2)} ×`;
        ctx.fillText(format(row.median, figure.digits) + ratio, high + 6, bar.y);
      });
      ctx.restore();
    }
  };

  function bars(canvas, figure) {
    const top = Math.max(0, ...figure.rows.map(row => row.high ?? 0));
    canvas.parentNode.style.height = `${46 + 25 * figure.rows.length}px`;
    charts.push(() => new Chart(canvas, {
      type: 'bar',
      data: {
        labels: figure.rows.map(row => row.system),
        datasets: [{
          data: figure.rows.map(row => row.median),
          backgroundColor: figure.rows.map(row => colour(row.drover ? 'drover' : 'qemu')),
          borderRadius: 2, barPercentage: 0.8, categoryPercentage: 0.9
        }]
      },
      options: {
        figure, indexAxis: 'y', animation: false, maintainAspectRatio: false,
        plugins: {
          legend: { display: false },
          tooltip: {
            callbacks: {
              label: item => {
                const row = figure.rows[item.dataIndex];
                return `${format(row.median, figure.digits)} ${figure.unit} ` +
                  `(${format(row.low, figure.digits)} to ${format(row.high, figure.digits)}, ${row.n} runs)`;
              }
            }
          }
        },
        scales: {
          x: {
            beginAtZero: true, suggestedMax: top * 1.32 || 1, ticks: { color: colour('soft'), maxTicksLimit: 6 },
            grid: { color: colour('line') }, border: { display: false }
          },
          y: { ticks: { color: colour('ink'), autoSkip: false }, grid: { display: false } }
        }
      },
      plugins: [spread]
    }));
  }

  /* Rounds and the guest's silence, behind the lines. */
  const marks = {
    id: 'marks',
    beforeDatasetsDraw(chart) {
      const run = chart.options.run;
      if (!run) return;
      const { ctx, chartArea: { top, bottom }, scales: { x } } = chart;
      ctx.save();
      if (run.silent) {
        const [from, to] = run.silent.map(t => x.getPixelForValue(t));
        ctx.fillStyle = colour('band');
        ctx.fillRect(from, top, Math.max(to - from, 2), bottom - top);
      }
      ctx.strokeStyle = colour('soft');
      ctx.setLineDash([3, 4]);
      for (const t of run.rounds) {
        ctx.beginPath();
        ctx.moveTo(x.getPixelForValue(t), top); ctx.lineTo(x.getPixelForValue(t), bottom);
        ctx.stroke();
      }
      ctx.restore();
    }
  };

  const shown = [];

  function axis(text, side, most, name) {
    return {
      position: side, beginAtZero: true, suggestedMax: most || 1, title: { display: true, text, color: colour(name) },
      ticks: { color: colour('soft'), maxTicksLimit: 6, callback: v => format(v, 0) },
      grid: { color: colour('line'), drawOnChartArea: side === 'left' }
    };
  }

  function line(canvas, run) {
    const most = key => Math.max(0, ...shown.map(s => Math.max(0, ...s.run[key].map(p => p.y))));
    const end = Math.ceil(Math.max(...shown.map(s => s.run.end)) * 2) / 2;
    const series = (label, key, name, id, fill) => ({
      label, data: run[key], yAxisID: id, borderColor: colour(name), borderWidth: 2, pointRadius: 0,
      backgroundColor: colour(name) + '26', fill, tension: 0
    });
    return new Chart(canvas, {
      type: 'line',
      data: {
        datasets: [
          series('left to send, MiB', 'remaining', 'drover', 'left', true),
          ...run.rate.length ? [series('on the link, MiB/s', 'rate', 'wire', 'rate', false)] : []
        ]
      },
      options: {
        run, animation: false, maintainAspectRatio: false, interaction: { mode: 'nearest', axis: 'x', intersect: false },
        plugins: { legend: { labels: { color: colour('ink'), boxWidth: 12, boxHeight: 2 } } },
        scales: {
          x: {
            type: 'linear', min: 0, max: end, title: { display: true, text: 'seconds', color: colour('soft') },
            ticks: { color: colour('soft') }, grid: { display: false }
          },
          left: axis('left to send, MiB', 'left', most('remaining'), 'drover'),
          rate: axis('on the link, MiB/s', 'right', most('rate'), 'wire')
        }
      },
      plugins: [marks]
    });
  }

  function timeline(first) {
    const card = document.createElement('div');
    card.className = 'card';
    const select = document.createElement('select');
    select.setAttribute('aria-label', 'the run to show');
    data.timelines.forEach((run, i) => select.add(new Option(run.name, i, false, i === first)));
    const note = document.createElement('p');
    note.className = 'soft';
    const box = document.createElement('div');
    box.className = 'line';
    const canvas = document.createElement('canvas');
    box.append(canvas);
    card.append(select, note, box);
    document.getElementById('timelines').append(card);
    const own = { run: data.timelines[first] };
    shown.push(own);
    select.onchange = () => { own.run = data.timelines[select.value]; draw(); };
    charts.push(() => { note.textContent = own.run.note; return line(canvas, own.run); });
  }

  let drawn = [];
  function draw() {
    drawn.forEach(chart => chart.destroy());
    drawn = charts.map(make => make());
  }

  for (const canvas of document.querySelectorAll('canvas[data-figure]')) {
    const [group, figure] = canvas.dataset.figure.split(' ');
    bars(canvas, data.groups[group][figure]);
  }
  data.first.forEach(timeline);
  draw();
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
})();
